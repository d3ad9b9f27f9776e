//! Every engine against the shared suite; the embedded one also against crashes, faults and full disks.

mod crash;
mod directories;
mod engines;
mod etcd;
mod faults;
mod sim;
