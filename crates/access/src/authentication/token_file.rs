//! Static tokens: a CSV file of `token,user,uid,"group1,group2"`, read once.

use super::{Authenticator, Credentials, Outcome, Rejected};
use async_trait::async_trait;
use machinery::user::UserInfo;
use std::collections::HashMap;
use std::sync::Arc;

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenFileError {
    #[error(
        "line {0} of the token file: at least 3 columns are needed (token, user name, user uid), found {1}"
    )]
    Columns(usize, usize),
    #[error("line {0} of the token file: {1}")]
    Quote(usize, &'static str),
}

/// Users by the digest of their token, so that no comparison tells how much of a token was right.
pub struct TokenFile(HashMap<[u8; 32], Arc<UserInfo>>);

impl TokenFile {
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut users = HashMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line).map_err(|why| TokenFileError::Quote(at + 1, why))?;
            let [token, name, uid, groups @ ..] = &columns[..] else {
                return Err(TokenFileError::Columns(at + 1, columns.len()));
            };
            if token.is_empty() {
                tracing::warn!(line = at + 1, "an empty token in the token file is left out");
                continue;
            }
            let mut groups: Vec<String> = groups
                .first()
                .into_iter()
                .flat_map(|groups| groups.split(','))
                .filter(|group| !group.is_empty())
                .map(str::to_owned)
                .collect();
            groups.push("system:authenticated".to_owned());
            let user = UserInfo {
                name: name.clone(),
                uid: uid.clone(),
                groups,
                ..UserInfo::default()
            };
            if users.insert(super::digest(token), Arc::new(user)).is_some() {
                tracing::warn!(
                    line = at + 1,
                    "a token stands twice in the token file; the later line counts"
                );
            }
        }
        Ok(Self(users))
    }
}

#[async_trait]
impl Authenticator for TokenFile {
    async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Outcome, Rejected> {
        let user = credentials
            .bearer_token()
            .and_then(|token| self.0.get(&super::digest(token)));
        Ok(user.map_or(Outcome::NotMine, |user| Outcome::User(Arc::clone(user))))
    }
}

/// The columns of a line of CSV; quoted ones may hold commas and doubled quotes.
fn columns(line: &str) -> Result<Vec<String>, &'static str> {
    let mut columns = Vec::new();
    let mut rest = line;
    loop {
        let (column, after) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
            Some(quoted) => {
                let mut column = String::new();
                let mut rest = quoted;
                loop {
                    let end = rest.find('"').ok_or("a quote is not closed")?;
                    column.push_str(&rest[..end]);
                    rest = &rest[end + 1..];
                    match rest.strip_prefix('"') {
                        Some(after) => {
                            column.push('"');
                            rest = after;
                        }
                        None => break,
                    }
                }
                (column, rest)
            }
        };
        columns.push(column.trim().to_owned());
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None if after.is_empty() => return Ok(columns),
            None => return Err("something follows a quoted column"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tokens_users_and_groups() {
        let file = TokenFile::parse("t1,alice,u1,\"dev,ops\"\n# a comment\n\nt2,bob,u2\nt3,\"c\"\"d\",u3,\n")
            .expect("valid");
        let user = |token: &str| file.0.get(&super::super::digest(token)).cloned().expect("known");
        assert_eq!(user("t1").groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!((user("t2").name.as_str(), user("t2").uid.as_str()), ("bob", "u2"));
        assert_eq!(user("t3").name, "c\"d");
        assert_eq!(
            TokenFile::parse("t,a\n").err(),
            Some(TokenFileError::Columns(1, 2))
        );
        assert!(TokenFile::parse("t,a,\"b\n").is_err());
    }
}
