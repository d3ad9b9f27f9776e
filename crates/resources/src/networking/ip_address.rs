//! IPAddress.

use crate::strategy::Strategy;

pub(crate) struct IpAddress;

impl Strategy for IpAddress {}
