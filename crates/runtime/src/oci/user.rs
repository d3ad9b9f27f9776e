//! Who a container runs as: numbers from the request, names from the image's own `/etc/passwd` and
//! `/etc/group`, read without ever leaving the image's tree.

use std::io::Read;
use std::path::Path;

use cri::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// A file longer than this is not a list of users.
const MAX_FILE: u64 = 4 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The primary group first, each once.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The image's own lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    pub(crate) fn read(rootfs: &Path) -> Accounts {
        Accounts {
            passwd: read(rootfs, "etc/passwd"),
            group: read(rootfs, "etc/group"),
        }
    }
}

/// Resolves the user of a security context over the image's default, `user[:group]`.
pub(crate) fn resolve(
    context: &LinuxContainerSecurityContext,
    image_user: &str,
    accounts: &Accounts,
) -> Result<User, String> {
    let mut wanted = match (&context.run_as_user, context.run_as_username.as_str()) {
        (Some(uid), _) => uid.value.to_string(),
        (None, "") => image_user.to_owned(),
        (None, name) => name.to_owned(),
    };
    if let Some(group) = &context.run_as_group {
        let user = wanted.split(':').next().unwrap_or_default();
        if user.is_empty() {
            return Err("user group is specified without user".to_owned());
        }
        wanted = format!("{user}:{}", group.value);
    }
    let (user, group) = wanted
        .split_once(':')
        .map_or((wanted.as_str(), None), |(user, group)| (user, Some(group)));
    let entry = passwd_entry(accounts, user);
    let uid = match (&entry, user) {
        (Some(entry), _) => entry.uid,
        (None, "") => 0,
        (None, text) => text
            .parse()
            .map_err(|_| format!("unable to find user {text}: no matching entries in passwd file"))?,
    };
    let gid = match group {
        None | Some("") => entry.as_ref().map_or(0, |entry| entry.gid),
        Some(text) => group_id(accounts, text)
            .or_else(|| text.parse().ok())
            .ok_or_else(|| format!("unable to find group {text}: no matching entries in group file"))?,
    };
    let mut groups = vec![gid];
    let mut add = |gid: u32| {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    };
    for gid in &context.supplemental_groups {
        add(u32::try_from(*gid).map_err(|_| format!("supplemental group {gid} is out of range"))?);
    }
    if context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        memberships(accounts, &entry.name).for_each(&mut add);
    }
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty());
    Ok(User {
        uid,
        gid,
        groups,
        home: home.unwrap_or_else(|| "/".to_owned()),
    })
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// By name, or by number if that is what was given.
fn passwd_entry(accounts: &Accounts, user: &str) -> Option<Entry> {
    let wanted_uid: Option<u32> = if user.is_empty() {
        Some(0)
    } else {
        user.parse().ok()
    };
    accounts.passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        let home = fields.nth(1).unwrap_or_default();
        let matches = wanted_uid.map_or(name == user, |wanted| wanted == uid);
        matches.then(|| Entry {
            name: name.to_owned(),
            uid,
            gid,
            home: home.to_owned(),
        })
    })
}

/// Name, number and members of each group.
fn group_lines(accounts: &Accounts) -> impl Iterator<Item = (&str, u32, &str)> {
    accounts.group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn group_id(accounts: &Accounts, name: &str) -> Option<u32> {
    group_lines(accounts)
        .find(|(known, ..)| *known == name)
        .map(|(_, gid, _)| gid)
}

fn memberships(accounts: &Accounts, user: &str) -> impl Iterator<Item = u32> {
    group_lines(accounts)
        .filter(move |(.., members)| members.split(',').any(|m| m.trim() == user))
        .map(|(_, gid, _)| gid)
}

fn read(rootfs: &Path, name: &str) -> String {
    let open = || -> std::io::Result<String> {
        let root = rustix::fs::open(
            rootfs,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
        let mut text = Vec::new();
        std::fs::File::from(file).take(MAX_FILE).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    // Images without these files are common (scratch); then only numbers work.
    open().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use cri::v1::Int64Value;

    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:\nbroken\n".to_owned(),
            group: "root:x:0:\nweb:x:34:\nlogs:x:40:web,other\nextra:x:41:web\n".to_owned(),
        }
    }

    fn check(
        image: &str,
        change: impl FnOnce(&mut LinuxContainerSecurityContext),
    ) -> Result<(u32, u32, Vec<u32>, String), String> {
        let mut context = LinuxContainerSecurityContext::default();
        change(&mut context);
        resolve(&context, image, &accounts()).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn users_are_resolved() {
        let int = |value| Some(Int64Value { value });
        assert_eq!(check("", |_| ()), Ok((0, 0, vec![0], "/root".into())));
        assert_eq!(
            check("web", |_| ()),
            Ok((33, 34, vec![34, 40, 41], "/var/www".into()))
        );
        assert_eq!(
            check("33", |_| ()),
            Ok((33, 34, vec![34, 40, 41], "/var/www".into()))
        );
        assert_eq!(
            check("web:logs", |_| ()),
            Ok((33, 40, vec![40, 41], "/var/www".into()))
        );
        assert_eq!(
            check("1000:1001", |_| ()),
            Ok((1000, 1001, vec![1001], "/".into()))
        );
        assert_eq!(
            check("web", |c| c.run_as_user = int(7)),
            Ok((7, 0, vec![0], "/".into()))
        );
        assert_eq!(
            check("", |c| {
                c.run_as_user = int(33);
                c.run_as_group = int(5);
                c.supplemental_groups = vec![9, 5];
            }),
            Ok((33, 5, vec![5, 9, 40, 41], "/var/www".into()))
        );
        assert_eq!(
            check("web", |c| {
                c.supplemental_groups = vec![9];
                c.supplemental_groups_policy = SupplementalGroupsPolicy::Strict as i32;
            }),
            Ok((33, 34, vec![34, 9], "/var/www".into()))
        );
        assert_eq!(
            check("nobody", |_| ()),
            Err("unable to find user nobody: no matching entries in passwd file".into())
        );
    }
}
