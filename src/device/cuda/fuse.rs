//! Operations as launches: those that stand side by side and belong together become one. What the first of them writes is
//! written all the same, so that nobody has to know who else reads it; and each number is computed as it is alone.
//!
//! ```text
//! add, norm, codes                              one
//! products of one way (q, k, v; gate, up)       one
//! updates of them by adapters                   two
//! norms of heads, turns of q and k, store       one
//! attention, codes of it                        one
//! activation, codes of it                       one
//! ```

use super::kernels::Kernels;
use super::launch::Launch;
use super::launches::{Prepared, activation, add, attention, codes, norm, prepare, products, updates};
use super::operation::{Activate, Add, Attention, Codes, MAX_PARTS, Norm, Operation, Part, Store, Turn, Way};
use super::tuning::{Shape, Tuning};
use crate::kernels::tile::BLOCK;

/// The launches of these operations, in their order.
pub fn launches(operations: &[Operation], kernels: &Kernels, tuning: &Tuning) -> Vec<Launch> {
    let mut launches = Vec::new();
    let mut rest = operations;
    while !rest.is_empty() {
        let n_taken = take(rest, kernels, tuning, &mut launches);
        rest = &rest[n_taken..];
    }
    launches
}

/// Makes a launch, or two, of the first operations, and says of how many.
fn take(operations: &[Operation], kernels: &Kernels, tuning: &Tuning, to: &mut Vec<Launch>) -> usize {
    use Operation as Op;
    match operations {
        [Op::Add(a), Op::Norm(n), Op::Codes(c), ..] if n.is_of(a) && c.are_of_norm(n) => {
            to.push(norm(kernels, n, Some(a), Some(c)));
            3
        }
        [Op::Add(a), Op::Norm(n), ..] if n.is_of(a) => {
            to.push(norm(kernels, n, Some(a), None));
            2
        }
        [Op::Norm(n), Op::Codes(c), ..] if c.are_of_norm(n) => {
            to.push(norm(kernels, n, None, Some(c)));
            2
        }
        [Op::Norm(q_norm), Op::Norm(k_norm), Op::Turn(q), Op::Turn(k), Op::Store(s), ..]
            if q_norm.is_of_heads(q)
                && k_norm.is_of_heads(k)
                && q_norm.eps == k_norm.eps
                && s.is_of(q, k) =>
        {
            let norms = (Some(q_norm), Some(k_norm));
            to.push(prepare(kernels, &Prepared { queries: Some(q), keys: Some(k), norms, store: Some(s) }));
            5
        }
        [Op::Turn(q), Op::Turn(k), Op::Store(s), ..] if s.is_of(q, k) => {
            let norms = (None, None);
            to.push(prepare(kernels, &Prepared { queries: Some(q), keys: Some(k), norms, store: Some(s) }));
            3
        }
        [Op::Attention(a), Op::Codes(c), ..] if c.are_of_attention(a) => {
            attention(kernels, a, Some(c), to);
            2
        }
        [Op::Activate(a), Op::Codes(c), ..] if c.are_of_activation(a) => {
            to.push(activation(kernels, a, Some(c)));
            2
        }
        [Op::Product(first), ..] => {
            let parts = parts(operations, &first.way);
            let shape = Shape::new(&first.way, &parts);
            to.push(products(&parts, &first.way, tuning.of(&shape)));
            parts.len()
        }
        [Op::Update(first), ..] => {
            let part = |operation: &Operation| match operation {
                Op::Update(update) if update.of == first.of => Some(update.part),
                _ => None,
            };
            let parts: Vec<_> = operations.iter().map_while(part).take(MAX_PARTS).collect();
            updates(kernels, &first.of, &parts, to);
            parts.len()
        }
        [alone, ..] => {
            match alone {
                Op::Norm(n) => to.push(norm(kernels, n, None, None)),
                Op::Codes(c) => to.push(codes(kernels, c)),
                Op::Turn(q) => {
                    to.push(prepare(kernels, &Prepared { queries: Some(q), ..Prepared::default() }))
                }
                Op::Store(s) => {
                    to.push(prepare(kernels, &Prepared { store: Some(s), ..Prepared::default() }))
                }
                Op::Attention(a) => attention(kernels, a, None, to),
                Op::Add(a) => to.push(add(kernels, a)),
                Op::Activate(a) => to.push(activation(kernels, a, None)),
                Op::Launch(launch) => to.push(launch.clone()),
                Op::Product(_) | Op::Update(_) => unreachable!("taken above"),
            }
            1
        }
        [] => 0,
    }
}

/// The matrices of those first operations that are products of this way, as many as a launch takes.
fn parts(operations: &[Operation], way: &Way) -> Vec<Part> {
    let part = |operation: &Operation| match operation {
        Operation::Product(product) if product.way == *way => Some(product.part),
        _ => None,
    };
    operations.iter().map_while(part).take(MAX_PARTS).collect()
}

/// All products of some operations, each with the matrices of its launch.
pub fn products_of(operations: &[Operation]) -> Vec<(Way, Vec<Part>)> {
    let mut found = Vec::new();
    let mut rest = operations;
    while let [first, after @ ..] = rest {
        rest = after;
        if let Operation::Product(product) = first {
            let parts = parts(after, &product.way);
            let of_launch = [product.part].into_iter().chain(parts).take(MAX_PARTS).collect::<Vec<_>>();
            rest = &after[of_launch.len() - 1..];
            found.push((product.way.clone(), of_launch));
        }
    }
    found
}

impl Norm {
    /// Whether its rows are what was added up.
    fn is_of(&self, add: &Add) -> bool {
        self.heads == 1 && add.y == self.x && add.n == self.n_rows * self.stride
    }

    /// Whether it changes the heads that are then turned.
    fn is_of_heads(&self, turn: &Turn) -> bool {
        let shape = (self.heads, self.width, self.n_rows, self.stride);
        self.x == self.y && self.x == turn.x && shape == (turn.heads, turn.head_dim, turn.n_rows, turn.stride)
    }
}

impl Codes {
    fn are_of(&self, x: crate::cuda::Argument, n_rows: usize, stride: usize) -> bool {
        self.x == x && self.n_rows == n_rows && self.stride == stride
    }

    fn are_of_norm(&self, norm: &Norm) -> bool {
        norm.heads == 1 && self.are_of(norm.y, norm.n_rows, norm.stride)
    }

    fn are_of_activation(&self, activate: &Activate) -> bool {
        self.are_of(activate.gate, activate.n_rows, activate.stride)
    }

    /// Every head must have blocks of its own, and the row nothing else.
    fn are_of_attention(&self, attention: &Attention) -> bool {
        let width = attention.n_kv_heads * attention.n_shared * attention.head_dim;
        attention.head_dim.is_multiple_of(BLOCK)
            && width == attention.stride
            && self.are_of(attention.y, attention.n_rows, attention.stride)
    }
}

impl Store {
    /// Whether these queries and keys are turned by the same angles, and the keys are what is stored.
    fn is_of(&self, q: &Turn, k: &Turn) -> bool {
        let angles = |turn: &Turn| (turn.cos, turn.sin, turn.half, turn.n_rows, turn.head_dim);
        let shape = (self.n_kv_heads, self.head_dim, self.n_rows, self.stride);
        angles(q) == angles(k)
            && q.x != k.x
            && self.k == k.x
            && shape == (k.heads, k.head_dim, k.n_rows, k.stride)
    }
}
