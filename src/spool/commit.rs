//! Group commit.

use super::order::{Order, Outcome};
use super::root::Spool;

impl Spool {
    /// Carries out a batch of orders; the outcomes stand in the order of the orders. One job that fails does not
    /// keep the others from their end.
    pub fn commit(&mut self, orders: Vec<Order>) -> Vec<Outcome> {
        todo!("{orders:?}")
    }
}
