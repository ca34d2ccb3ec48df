//! The program as people and other programs meet it: started, disturbed, killed, upgraded.

#[path = "../support/mod.rs"]
mod support;

mod ask;
mod batch_files;
mod chat;
mod damage;
mod doctor;
mod faults;
mod faults_files;
mod faults_flood;
mod foreign;
mod gpu;
mod guided;
mod interruption;
mod list;
mod memory;
mod operate;
mod producers;
mod replacement;
mod service;
mod status;
mod workflow;
