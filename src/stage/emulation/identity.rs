//! Who a process appears to be, and what it may become. Source: credentials(7), setresuid(2), `kernel/sys.c`.
//!
//! Pure. Which process is who is a number that the kernel keeps with it: see [`super`].

use std::collections::HashMap;

use rustix::io::Errno;

/// "Leave it as it is".
pub const SAME: u32 = u32::MAX;

/// All identities of a container together take at most this many bytes.
const MOST: usize = 8 << 20;

/// Real, effective, saved, and that for files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ids {
    /// Real.
    pub real: u32,
    /// Effective.
    pub effective: u32,
    /// Saved.
    pub saved: u32,
    /// That of files.
    pub file: u32,
}

impl Ids {
    fn has(self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }

    /// setuid(2), setgid(2).
    fn set(self, id: u32, privileged: bool) -> Result<Self, Errno> {
        if id == SAME {
            return Err(Errno::INVAL);
        }
        if privileged {
            return Ok(Self {
                real: id,
                effective: id,
                saved: id,
                file: id,
            });
        }
        if id != self.real && id != self.saved {
            return Err(Errno::PERM);
        }
        Ok(Self {
            effective: id,
            file: id,
            ..self
        })
    }

    /// setreuid(2), setregid(2).
    fn set_two(self, real: u32, effective: u32, privileged: bool) -> Result<Self, Errno> {
        let mut new = self;
        if real != SAME {
            if !privileged && real != self.real && real != self.effective {
                return Err(Errno::PERM);
            }
            new.real = real;
        }
        if effective != SAME {
            if !privileged && !self.has(effective) {
                return Err(Errno::PERM);
            }
            new.effective = effective;
        }
        if real != SAME || (effective != SAME && effective != self.real) {
            new.saved = new.effective;
        }
        new.file = new.effective;
        Ok(new)
    }

    /// setresuid(2), setresgid(2).
    fn set_three(self, wanted: [u32; 3], privileged: bool) -> Result<Self, Errno> {
        let allowed = |id: &u32| privileged || *id == SAME || self.has(*id);
        if !wanted.iter().all(allowed) {
            return Err(Errno::PERM);
        }
        let or = |id: u32, old: u32| if id == SAME { old } else { id };
        let effective = or(wanted[1], self.effective);
        Ok(Self {
            real: or(wanted[0], self.real),
            effective,
            saved: or(wanted[2], self.saved),
            file: effective,
        })
    }

    /// setfsuid(2), setfsgid(2), which never fail.
    fn set_file(self, id: u32, privileged: bool) -> Self {
        if id != SAME && (privileged || id == self.file || self.has(id)) {
            Self { file: id, ..self }
        } else {
            self
        }
    }
}

/// Who a process appears to be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// Users.
    pub uid: Ids,
    /// Groups.
    pub gid: Ids,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// It has asked to keep its capabilities when it stops being root.
    pub keeps: bool,
    /// It has kept those that change ids. Source: capabilities(7), "Effect of user ID changes on capabilities".
    pub kept: bool,
}

/// A wish to be somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// setuid, setreuid, setresuid: one, two or three ids.
    User(Vec<u32>),
    /// The same for groups.
    Group(Vec<u32>),
    /// setfsuid.
    FileUser(u32),
    /// setfsgid.
    FileGroup(u32),
    /// setgroups.
    Groups(Vec<u32>),
    /// prctl(2) `PR_SET_KEEPCAPS`.
    Keep(bool),
    /// capset(2): the capabilities that are permitted then.
    Capabilities(u64),
}

/// `CAP_SETGID` and `CAP_SETUID`.
const OF_IDS: u64 = 1 << 6 | 1 << 7;

impl Identity {
    /// Whether it may do what root may.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.uid.effective == 0 || self.kept
    }

    /// Whether it belongs to this group, as far as files are concerned.
    #[must_use]
    pub fn is_in(&self, group: u32) -> bool {
        self.gid.file == group || self.groups.contains(&group)
    }

    /// Whether new files are root's.
    #[must_use]
    pub fn makes_roots_files(&self) -> bool {
        (self.uid.file, self.gid.file) == (0, 0)
    }

    /// Who it is afterwards.
    ///
    /// # Errors
    /// `EPERM`, `EINVAL`.
    pub fn changed(&self, change: &Change) -> Result<Self, Errno> {
        let privileged = self.is_privileged();
        let ids = |old: Ids, new: &[u32]| match *new {
            [one] => old.set(one, privileged),
            [real, effective] => old.set_two(real, effective, privileged),
            [real, effective, saved] => old.set_three([real, effective, saved], privileged),
            _ => Err(Errno::INVAL),
        };
        let mut new = self.clone();
        match change {
            Change::User(wanted) => {
                new.uid = ids(self.uid, wanted)?;
                new.kept = privileged && self.keeps && new.uid.effective != 0;
            }
            Change::Keep(keeps) => new.keeps = *keeps,
            Change::Capabilities(permitted) => new.kept &= permitted & OF_IDS != 0,
            Change::Group(wanted) => new.gid = ids(self.gid, wanted)?,
            Change::FileUser(id) => new.uid = self.uid.set_file(*id, privileged),
            Change::FileGroup(id) => new.gid = self.gid.set_file(*id, privileged),
            Change::Groups(groups) if privileged => {
                new.groups.clone_from(groups);
                new.groups.sort_unstable();
            }
            Change::Groups(_) => return Err(Errno::PERM),
        }
        Ok(new)
    }

    /// Who it is when it executes a file with these set-id bits. Source: execve(2).
    #[must_use]
    pub fn executing(&self, user: Option<u32>, group: Option<u32>) -> Self {
        let become_id = |ids: Ids, id: Option<u32>| {
            let effective = id.unwrap_or(ids.effective);
            Ids {
                effective,
                saved: effective,
                file: effective,
                ..ids
            }
        };
        Self {
            uid: become_id(self.uid, user),
            gid: become_id(self.gid, group),
            groups: self.groups.clone(),
            keeps: false,
            kept: false,
        }
    }
}

/// All that there have been, each with a number that never changes; 0 is root.
#[derive(Debug)]
pub struct Identities {
    all: Vec<Identity>,
    numbers: HashMap<Identity, usize>,
    bytes: usize,
}

impl Default for Identities {
    fn default() -> Self {
        let root = Identity::default();
        Self {
            numbers: HashMap::from([(root.clone(), 0)]),
            all: vec![root],
            bytes: 0,
        }
    }
}

impl Identities {
    /// Who this number stands for. What a process has made up itself is root: it can become that without us.
    #[must_use]
    pub fn of(&self, number: u64) -> &Identity {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.all.get(number))
            .unwrap_or(&self.all[0])
    }

    /// The number of this one.
    ///
    /// # Errors
    /// `ENOMEM` when a container has made up too many.
    pub fn number(&mut self, identity: &Identity) -> Result<u64, Errno> {
        let number = match self.numbers.get(identity) {
            Some(number) => *number,
            None => {
                let size = 2 * (size_of::<Identity>() + 4 * identity.groups.len());
                if self.bytes + size > MOST {
                    return Err(Errno::NOMEM);
                }
                self.bytes += size;
                self.all.push(identity.clone());
                let number = self.all.len() - 1;
                self.numbers.insert(identity.clone(), number);
                number
            }
        };
        u64::try_from(number).map_err(|_| Errno::NOMEM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(real: u32, effective: u32, saved: u32, file: u32) -> Ids {
        Ids {
            real,
            effective,
            saved,
            file,
        }
    }

    #[test]
    fn users_change_as_the_kernel_lets_them() {
        let root = Ids::default();
        let app = ids(7, 7, 7, 7);
        let asleep = ids(7, 7, 0, 7);
        let cases: &[(Ids, &[u32], Result<Ids, Errno>)] = &[
            (root, &[7], Ok(app)),
            (root, &[SAME], Err(Errno::INVAL)),
            (app, &[0], Err(Errno::PERM)),
            (app, &[7], Ok(app)),
            (asleep, &[0], Ok(ids(7, 0, 0, 0))),
            (root, &[7, 7], Ok(app)),
            (root, &[SAME, 7], Ok(ids(0, 7, 7, 7))),
            (ids(0, 7, 0, 7), &[SAME, 0], Ok(ids(0, 0, 0, 0))),
            (app, &[SAME, 0], Err(Errno::PERM)),
            (asleep, &[0, SAME], Err(Errno::PERM)),
            (root, &[SAME, 7, 0], Ok(ids(0, 7, 0, 7))),
            (root, &[7, 7, 7], Ok(app)),
            (asleep, &[SAME, 0, SAME], Ok(ids(7, 0, 0, 0))),
            (app, &[7, 8, 7], Err(Errno::PERM)),
            (app, &[SAME, SAME, SAME], Ok(app)),
        ];
        for (old, wanted, expected) in cases {
            let before = Identity {
                uid: *old,
                ..Identity::default()
            };
            let after = before.changed(&Change::User(wanted.to_vec()));
            assert_eq!(after.map(|new| new.uid), *expected, "{old:?} {wanted:?}");
        }
    }

    #[test]
    fn groups_need_root_and_set_id_files_give_it_back() {
        let root = Identity::default();
        let mut app = root.changed(&Change::Groups(vec![9, 3])).unwrap();
        app = app.changed(&Change::Group(vec![5])).unwrap();
        app = app.changed(&Change::User(vec![7])).unwrap();
        assert_eq!((app.gid, &app.groups[..]), (ids(5, 5, 5, 5), &[3, 9][..]));
        assert!(app.is_in(5) && app.is_in(9) && !app.is_in(0));
        assert_eq!(app.changed(&Change::Groups(vec![])), Err(Errno::PERM));
        assert_eq!(app.changed(&Change::Group(vec![0])), Err(Errno::PERM));
        assert_eq!(app.changed(&Change::FileUser(0)).unwrap(), app);
        let keeper = root.changed(&Change::Keep(true)).unwrap();
        let kept = keeper.changed(&Change::User(vec![7])).unwrap();
        assert!(kept.changed(&Change::Group(vec![5])).is_ok());
        for dropped in [
            kept.changed(&Change::Capabilities(1)).unwrap(),
            kept.executing(None, None),
        ] {
            assert_eq!(dropped.changed(&Change::Group(vec![5])), Err(Errno::PERM));
        }
        let again = app.executing(Some(0), None);
        assert_eq!((again.uid, again.gid), (ids(7, 0, 0, 0), app.gid));
        assert!(again.is_privileged() && !app.is_privileged());
    }

    #[test]
    fn numbers_stay_and_memory_is_bounded() {
        let mut all = Identities::default();
        let app = Identity::default().changed(&Change::User(vec![7])).unwrap();
        assert_eq!(all.number(&Identity::default()), Ok(0));
        assert_eq!(all.number(&app), Ok(1));
        assert_eq!(all.number(&app), Ok(1));
        assert_eq!(all.of(1), &app);
        assert_eq!(all.of(u64::MAX), &Identity::default());
        let big = (0..200).map(|n| Identity {
            groups: vec![n; 65_536],
            ..Identity::default()
        });
        let refused = big.map(|one| all.number(&one)).find(Result::is_err);
        assert_eq!(refused, Some(Err(Errno::NOMEM)));
    }
}
