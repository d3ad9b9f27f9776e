//! Requests of a claim, whichever of their two forms they have.

use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceRequest, DeviceSelector, DeviceSubRequest, DeviceToleration,
};

/// A request for devices of a class: one by itself, or one of several of which the first that can be had is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The request it is an alternative of.
    pub(super) parent: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) class: &'a str,
    mode: Option<&'a str>,
    count: Option<i64>,
    pub(super) selectors: &'a [DeviceSelector],
    pub(super) tolerations: Option<&'a Vec<DeviceToleration>>,
    pub(super) capacity: Option<&'a CapacityRequirements>,
    pub(super) admin: bool,
}

/// How many devices are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode<'a> {
    Count(i64),
    All,
    Unknown(&'a str),
}

impl<'a> Request<'a> {
    /// The alternatives of a request, in the order in which they are preferred.
    pub(super) fn alternatives(request: &'a DeviceRequest) -> Vec<Self> {
        if let Some(exact) = &request.exactly {
            return vec![Self {
                parent: None,
                name: &request.name,
                class: &exact.device_class_name,
                mode: exact.allocation_mode.as_deref(),
                count: exact.count,
                selectors: exact.selectors.as_deref().unwrap_or(&[]),
                tolerations: exact.tolerations.as_ref(),
                capacity: exact.capacity.as_ref(),
                admin: exact.admin_access == Some(true),
            }];
        }
        let all = request.first_available.iter().flatten();
        all.map(|sub| Self::alternative(&request.name, sub)).collect()
    }

    fn alternative(parent: &'a str, sub: &'a DeviceSubRequest) -> Self {
        Self {
            parent: Some(parent),
            name: &sub.name,
            class: &sub.device_class_name,
            mode: sub.allocation_mode.as_deref(),
            count: sub.count,
            selectors: sub.selectors.as_deref().unwrap_or(&[]),
            tolerations: sub.tolerations.as_ref(),
            capacity: sub.capacity.as_ref(),
            admin: false,
        }
    }

    pub(super) fn mode(&self) -> Mode<'a> {
        match self.mode {
            Some("ExactCount") => Mode::Count(self.count.unwrap_or(1)),
            Some("All") => Mode::All,
            other => Mode::Unknown(other.unwrap_or("")),
        }
    }

    /// The name results and configurations refer to it by.
    pub(super) fn reference(&self) -> String {
        match self.parent {
            Some(parent) => format!("{parent}/{}", self.name),
            None => self.name.to_owned(),
        }
    }

    /// Whether a list of names in the claim means this request.
    pub(super) fn is_named_by(&self, names: &[String]) -> bool {
        names.iter().any(|name| match self.parent {
            None => name == self.name,
            Some(parent) => {
                name == parent
                    || name
                        .split_once('/')
                        .is_some_and(|(p, n)| p == parent && n == self.name)
            }
        })
    }
}
