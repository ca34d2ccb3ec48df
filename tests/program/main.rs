//! The program as people and other programs meet it: started, disturbed, killed, upgraded.

#[path = "../support/mod.rs"]
mod support;

mod doctor;
mod faults;
mod faults_files;
mod service;

// The same on every processor, or not to be emulated: scripts/check leaves them out where it emulates one.
#[cfg(not(emulated))]
mod ask;
#[cfg(not(emulated))]
mod batch_files;
#[cfg(not(emulated))]
mod chat;
#[cfg(not(emulated))]
mod damage;
#[cfg(not(emulated))]
mod faults_flood;
#[cfg(all(not(emulated), feature = "fleet"))]
mod fleet;
#[cfg(all(not(emulated), feature = "fleet"))]
mod fleet_chaos;
#[cfg(not(emulated))]
mod foreign;
#[cfg(not(emulated))]
mod gpu;
#[cfg(not(emulated))]
mod guided;
#[cfg(not(emulated))]
mod interruption;
#[cfg(not(emulated))]
mod list;
#[cfg(not(emulated))]
mod memory;
#[cfg(not(emulated))]
mod mistaken;
#[cfg(not(emulated))]
mod operate;
#[cfg(not(emulated))]
mod producers;
#[cfg(not(emulated))]
mod refusals;
#[cfg(not(emulated))]
mod replacement;
#[cfg(not(emulated))]
mod status;
#[cfg(not(emulated))]
mod workflow;
