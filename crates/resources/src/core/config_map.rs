//! ConfigMap.

use crate::strategy::Strategy;

pub(crate) struct ConfigMap;

impl Strategy for ConfigMap {}
