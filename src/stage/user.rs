//! `user[:group]` looked up in the container's own `/etc/passwd` and `/etc/group`. Pure.

use crate::error::Fail;

/// Who the program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Groups that `/etc/group` lists the user in.
    pub groups: Vec<u32>,
    /// From `/etc/passwd`; `/` when it is not there.
    pub home: String,
}

/// A user or group id. Docker's limit: the kernel takes the largest one of all for "leave it as it is".
fn number(text: &str) -> Option<u32> {
    text.parse::<u32>()
        .ok()
        .filter(|id| *id <= i32::MAX.unsigned_abs())
}

/// Resolves `text` as docker does: names or numbers, the group after a colon; empty means root.
///
/// # Errors
/// [`crate::error::Kind::Usage`] when a name is not in the file.
pub fn resolve(text: &str, passwd: &str, group: &str) -> Result<User, Fail> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let wanted = number(user);
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| {
            fields.len() >= 4
                && (fields[0] == user || wanted.is_some() && number(fields[2]) == wanted)
        });
    let id =
        |fields: &[&str], position: usize| fields.get(position).and_then(|field| number(field));
    let uid = entry.as_ref().and_then(|fields| id(fields, 2)).or(wanted);
    let Some(uid) = uid else {
        return Err(
            Fail::usage(format!("no user `{user}` in the container's /etc/passwd"))
                .hint("name a user that the image has, or a number: -u 1000:1000"),
        );
    };
    let name = entry.as_ref().map(|fields| fields[0]);
    let groups_of = |line: &str| -> Option<(String, u32, Vec<String>)> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let gid = number(fields.nth(1)?)?;
        let members = fields
            .next()
            .unwrap_or_default()
            .split(',')
            .map(|member| member.trim().to_owned())
            .collect();
        Some((name, gid, members))
    };
    let gid = match wanted_group.filter(|group| !group.is_empty()) {
        Some(wanted) => group_id(wanted, group)?,
        None => entry.as_ref().and_then(|fields| id(fields, 3)).unwrap_or(0),
    };
    // An explicit group replaces the supplementary ones, as in docker.
    let groups = match (name, wanted_group) {
        (Some(name), None) => group
            .lines()
            .filter_map(groups_of)
            .filter(|(_, _, members)| members.iter().any(|member| member == name))
            .map(|(_, gid, _)| gid)
            .collect(),
        _ => Vec::new(),
    };
    let home = entry
        .as_ref()
        .and_then(|fields| fields.get(5))
        .map_or("", |home| home.trim());
    let home = if home.is_empty() { "/" } else { home };
    Ok(User {
        uid,
        gid,
        groups,
        home: home.to_owned(),
    })
}

/// The id of a group by name or number.
///
/// # Errors
/// [`crate::error::Kind::Usage`] when the name is not in the file.
pub fn group_id(wanted: &str, group: &str) -> Result<u32, Fail> {
    let named = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == wanted)
            .then(|| number(fields.nth(1)?))
            .flatten()
    });
    named.or_else(|| number(wanted)).ok_or_else(|| {
        Fail::usage(format!("no group `{wanted}` in the container's /etc/group"))
            .hint("name a group that the image has, or a number")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\nbroken\ntrap:x:4294967295:0::/:\n9:x:77:77::/nine:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\nvideo:x:44:app\nbad:x\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let show = |text: &str| {
            resolve(text, PASSWD, GROUP).map_or_else(
                |fail| fail.message,
                |user| format!("{}:{} {:?} {}", user.uid, user.gid, user.groups, user.home),
            )
        };
        for (text, expected) in [
            ("", "0:0 [10] /root"),
            ("root", "0:0 [10] /root"),
            ("app", "1000:1001 [10, 44] /home/app"),
            ("1000", "1000:1001 [10, 44] /home/app"),
            ("app:video", "1000:44 [] /home/app"),
            ("4242", "4242:0 [] /"),
            ("4242:10", "4242:10 [] /"),
            // setresuid(2) takes -1 for no change: the program would stay root.
            (
                "4294967295",
                "no user `4294967295` in the container's /etc/passwd",
            ),
            (
                "0:4294967295",
                "no group `4294967295` in the container's /etc/group",
            ),
            ("trap", "no user `trap` in the container's /etc/passwd"),
            ("nobody", "no user `nobody` in the container's /etc/passwd"),
            (
                "app:nogroup",
                "no group `nogroup` in the container's /etc/group",
            ),
        ] {
            assert_eq!(show(text), expected, "{text}");
        }
    }
}
