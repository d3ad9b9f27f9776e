//! Acting as somebody else: the `Impersonate-…` headers, if the caller may.

use crate::filters::authorize;
use crate::request::query::decode_path;
use crate::server::Core;
use access::authorization::Attributes;
use http::HeaderMap;
use machinery::status::ApiError;
use machinery::user::UserInfo;
use std::sync::Arc;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Whom the request is to be judged as.
pub(crate) async fn subject(
    core: &Core,
    headers: &HeaderMap,
    caller: Arc<UserInfo>,
) -> Result<Arc<UserInfo>, ApiError> {
    let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let one = |name: &str| headers.get(name).map(text).unwrap_or_default();
    let mut wanted = UserInfo {
        name: one(USER),
        uid: one(UID),
        ..UserInfo::default()
    };
    wanted.groups = headers.get_all(GROUP).iter().map(text).collect();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            wanted
                .extra
                .entry(decode_path(key))
                .or_default()
                .push(text(value));
        }
    }
    if wanted.name.is_empty() {
        if wanted.groups.is_empty() && wanted.extra.is_empty() && wanted.uid.is_empty() {
            return Ok(caller);
        }
        return Err(ApiError::bad_request(format!(
            "requested {:?} without impersonating a user",
            wanted.groups
        )));
    }
    let may = |group: &'static str, resource: &'static str| Attributes {
        version: "v1",
        ..Attributes::resource(&caller, "impersonate", group, resource)
    };
    let account = wanted
        .name
        .strip_prefix(SERVICE_ACCOUNT)
        .and_then(|rest| rest.split_once(':'));
    match account {
        Some((namespace, name)) => {
            authorize(
                core,
                &Attributes {
                    namespace,
                    name,
                    ..may("", "serviceaccounts")
                },
            )
            .await?;
        }
        None => {
            authorize(
                core,
                &Attributes {
                    name: &wanted.name,
                    ..may("", "users")
                },
            )
            .await?
        }
    }
    for group in &wanted.groups {
        authorize(
            core,
            &Attributes {
                name: group,
                ..may("", "groups")
            },
        )
        .await?;
    }
    if !wanted.uid.is_empty() {
        authorize(
            core,
            &Attributes {
                name: &wanted.uid,
                ..may("authentication.k8s.io", "uids")
            },
        )
        .await?;
    }
    for (key, values) in &wanted.extra {
        for name in values {
            let extra = may("authentication.k8s.io", "userextras");
            authorize(
                core,
                &Attributes {
                    subresource: key,
                    name,
                    ..extra
                },
            )
            .await?;
        }
    }
    if let Some((namespace, _)) = account
        && wanted.groups.is_empty()
    {
        wanted.groups = vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ];
    }
    let known = if wanted.name == "system:anonymous" {
        "system:unauthenticated"
    } else {
        "system:authenticated"
    };
    if !wanted
        .groups
        .iter()
        .any(|g| g == "system:authenticated" || g == "system:unauthenticated")
    {
        wanted.groups.push(known.to_owned());
    }
    Ok(Arc::new(wanted))
}
