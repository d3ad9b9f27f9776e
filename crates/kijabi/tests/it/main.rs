//! Tests of the whole: the rules of the house, and a real node.

mod api;
mod architecture;
mod commands;
mod crash;
mod faults;
mod harness;
mod healing;
mod images;
mod latency;
mod payload;
mod refusals;
mod rollout;
mod teardown;
mod workloads;
