//! The pod network and the Service proxy on the real kernel.
//!
//! Each test lives in a network namespace of its own, with pods in further ones; all of it ends with the
//! test.

mod harness;
mod pods;
mod scale;
mod services;
