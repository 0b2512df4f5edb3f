//! Accounts with fixed ids in `/etc/{passwd,group,shadow,gshadow}` (passwd(5), group(5), shadow(5),
//! gshadow(5)). Edited as text, without useradd: its ids depend on what ran before, its dates on
//! the clock, and an image may not have it.

use crate::entry::EPOCH;

/// Days since 1970 of the format's epoch: the last password change of every account.
const EPOCH_DAY: i64 = EPOCH / 86_400;

/// An account to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// Name of the primary group, made with `gid` where it is not there.
    pub group: String,
    /// Further groups; they must exist.
    pub groups: Vec<String>,
    pub home: String,
    pub shell: String,
}

/// An account that cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccountError {
    #[error("user `{name}` exists already with uid {found}, declared with {expected}")]
    Exists { name: String, found: String, expected: u32 },
    #[error("uid {uid} of user `{name}` is taken by `{holder}`")]
    UidTaken { name: String, uid: u32, holder: String },
    #[error("gid {gid} of group `{group}` is taken by `{holder}`")]
    GidTaken { group: String, gid: u32, holder: String },
    #[error("group `{group}` exists already with gid {found}, declared with {expected}")]
    GroupExists { group: String, found: String, expected: u32 },
    #[error("group `{group}` of user `{name}` does not exist")]
    NoGroup { name: String, group: String },
}

/// The texts of the four files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountFiles {
    pub passwd: String,
    pub group: String,
    pub shadow: String,
    pub gshadow: String,
}

fn fields(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() > 2)
}

fn push_line(text: &mut String, line: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
}

impl AccountFiles {
    /// Adds an account. One that is there already exactly as declared is left alone.
    pub fn add(&mut self, account: &Account) -> Result<(), AccountError> {
        let Account { name, uid, gid, home, shell, .. } = account;
        let known = fields(&self.passwd)
            .find(|fields| fields[0] == name)
            .map(|fields| fields[2].to_owned());
        match known {
            Some(found) if found == uid.to_string() => return Ok(()),
            Some(found) => {
                return Err(AccountError::Exists { name: name.clone(), found, expected: *uid });
            }
            None => {}
        }
        if let Some(holder) = fields(&self.passwd).find(|fields| fields[2] == uid.to_string()) {
            let holder = holder[0].to_owned();
            return Err(AccountError::UidTaken { name: name.clone(), uid: *uid, holder });
        }
        self.add_group(&account.group, *gid)?;
        for group in &account.groups {
            self.join(name, group)?;
        }
        push_line(&mut self.passwd, &format!("{name}:x:{uid}:{gid}::{home}:{shell}"));
        push_line(&mut self.shadow, &format!("{name}:!:{EPOCH_DAY}:0:99999:7:::"));
        Ok(())
    }

    fn add_group(&mut self, group: &str, gid: u32) -> Result<(), AccountError> {
        let number = gid.to_string();
        if let Some(known) = fields(&self.group).find(|fields| fields[0] == group) {
            let found = known[2].to_owned();
            return match found == number {
                true => Ok(()),
                false => {
                    Err(AccountError::GroupExists { group: group.to_owned(), found, expected: gid })
                }
            };
        }
        if let Some(holder) = fields(&self.group).find(|fields| fields[2] == number) {
            let holder = holder[0].to_owned();
            return Err(AccountError::GidTaken { group: group.to_owned(), gid, holder });
        }
        push_line(&mut self.group, &format!("{group}:x:{gid}:"));
        push_line(&mut self.gshadow, &format!("{group}:!::"));
        Ok(())
    }

    fn join(&mut self, name: &str, group: &str) -> Result<(), AccountError> {
        if !fields(&self.group).any(|fields| fields[0] == group) {
            return Err(AccountError::NoGroup { name: name.to_owned(), group: group.to_owned() });
        }
        for text in [&mut self.group, &mut self.gshadow] {
            *text = map_lines(text, |line| {
                let (head, members) = line.rsplit_once(':')?;
                (head.split(':').next() == Some(group)).then(|| {
                    let members =
                        members.split(',').chain([name]).filter(|member| !member.is_empty());
                    format!("{head}:{}", members.collect::<Vec<_>>().join(","))
                })
            });
        }
        Ok(())
    }

    /// Makes the files independent of the clock and of the order in which scripts ran: dates of
    /// password changes become the epoch's, members of groups are sorted.
    pub fn normalise(&mut self) {
        self.shadow = map_lines(&self.shadow, |line| {
            let mut fields: Vec<&str> = line.split(':').collect();
            let day = EPOCH_DAY.to_string();
            let date = fields.get_mut(2).filter(|date| !date.is_empty())?;
            *date = &day;
            Some(fields.join(":"))
        });
        for text in [&mut self.group, &mut self.gshadow] {
            *text = map_lines(text, |line| {
                let (head, members) = line.rsplit_once(':')?;
                let mut members: Vec<&str> = members.split(',').collect();
                members.sort_unstable();
                Some(format!("{head}:{}", members.join(",")))
            });
        }
    }
}

/// Rewrites the lines that `change` has something to say about.
fn map_lines(text: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let mut changed = String::with_capacity(text.len());
    for line in text.lines() {
        changed.push_str(&change(line).unwrap_or_else(|| line.to_owned()));
        changed.push('\n');
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Account {
        Account {
            name: "agent".into(),
            uid: 1000,
            gid: 1000,
            group: "agent".into(),
            groups: vec!["audio".into()],
            home: "/home/agent".into(),
            shell: "/bin/bash".into(),
        }
    }

    fn files() -> AccountFiles {
        AccountFiles {
            passwd: "root:x:0:0:root:/root:/bin/bash\n".into(),
            group: "root:x:0:\naudio:x:29:zoe\n".into(),
            shadow: "root:*:20777:0:99999:7:::\n".into(),
            gshadow: "root:*::\naudio:*::zoe\n".into(),
        }
    }

    #[test]
    fn an_account_gets_its_lines_in_all_four_files() {
        let mut files = files();
        files.add(&agent()).unwrap();
        files.normalise();
        assert!(files.passwd.ends_with("agent:x:1000:1000::/home/agent:/bin/bash\n"));
        assert_eq!(files.group, "root:x:0:\naudio:x:29:agent,zoe\nagent:x:1000:\n");
        assert_eq!(files.gshadow, "root:*::\naudio:*::agent,zoe\nagent:!::\n");
        assert_eq!(files.shadow, "root:*:20089:0:99999:7:::\nagent:!:20089:0:99999:7:::\n");
    }

    #[test]
    fn adding_an_account_twice_changes_nothing() {
        let mut once = files();
        once.add(&agent()).unwrap();
        let mut twice = once.clone();
        twice.add(&agent()).unwrap();
        assert_eq!(once, twice);
    }

    #[test]
    fn taken_ids_are_refused_with_their_holder() {
        let mut files = files();
        let error = files.add(&Account { uid: 0, ..agent() }).unwrap_err().to_string();
        assert_eq!(error, "uid 0 of user `agent` is taken by `root`");
        let error = files.add(&Account { gid: 29, ..agent() }).unwrap_err().to_string();
        assert_eq!(error, "gid 29 of group `agent` is taken by `audio`");
        let error = files.add(&Account { groups: vec!["video".into()], ..agent() }).unwrap_err();
        assert_eq!(error.to_string(), "group `video` of user `agent` does not exist");
    }
}
