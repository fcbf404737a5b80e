//! The text printed when the service is ready: its address, the key, how an agent connects, and three
//! requests that work when a developer pastes them in order.

use std::{fmt, net::SocketAddr, str::FromStr};

use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, types::PgInterval},
};

use crate::key::Key;

/// The agent of the first request.
const AGENT: &str = "agent-1";

/// The text, before it is formatted.
#[derive(Debug)]
pub(crate) struct Greeting {
    url: String,
    key: Key,
    lock: Lock,
}

/// A path, and the fencing token that the first request will get for it.
#[derive(Debug, PartialEq, Eq)]
struct Lock {
    path: String,
    token: i64,
}

/// A lock in the database.
struct Known {
    path: String,
    token: i64,
    is_live: bool,
    is_ours: bool,
}

impl Greeting {
    pub(crate) async fn new(
        address: SocketAddr,
        key: &Key,
        dsn: &str,
        session_timeout: PgInterval,
    ) -> Result<Greeting, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&PgConnectOptions::from_str(dsn)?).await?;
        let known = sqlx::query_as!(
            Known,
            r#"
            select
                key as path,
                token,
                is_live(
                    workspace, agent_id, session_id, locked_at, expires_at, $2
                ) as "is_live!",
                coalesce(agent_id = $1 and session_id is null, false) as "is_ours!"
            from file_lock
            where workspace = 'default' and key ~ '^src/main(-[0-9]+)?\.rs$'
            "#,
            AGENT,
            session_timeout,
        )
        .fetch_all(&mut connection)
        .await?;
        connection.close().await?;
        Ok(Greeting { url: format!("http://{address}"), key: key.clone(), lock: choose(&known) })
    }

    /// Returns a command line without the key, because other users can see the arguments of a program.
    fn curl(&self, route: &str, body: &str) -> String {
        let (before, header) = match &self.key {
            Key::Made(key) => ("", quoted(&format!("@{}", key.header_file.display()))),
            Key::Configured => (r#"printf 'X-API-Key: %s' "$KEY" | "#, "@-".to_owned()),
        };
        let url = &self.url;
        format!(
            "{before}curl -sS -H {header} -H 'Content-Type: application/json' -d '{body}' {url}{route}"
        )
    }

    fn connect(&self) -> String {
        let key = match &self.key {
            Key::Made(key) => &key.text,
            Key::Configured => "$KEY",
        };
        let url = &self.url;
        let line = format!(
            r#"claude mcp add --transport http coord {url}/mcp --header "Authorization: Bearer {key}""#
        );
        match &self.key {
            // Without a name, all agents with this key would be the same agent, and share its locks.
            Key::Made(_) => line + r#" --header "X-Agent-Id: claude-1""#,
            Key::Configured => line,
        }
    }

    fn acquire(&self, agent: &str) -> String {
        let path = &self.lock.path;
        let body =
            format!(r#"{{"file_path":"{path}","agent_id":"{agent}","agent_type":"claude_code"}}"#);
        self.curl("/locks/acquire", &body)
    }

    fn verify(&self) -> String {
        let Lock { path, token } = &self.lock;
        let body = format!(r#"{{"locks":[{{"file_path":"{path}","fencing_token":{token}}}]}}"#);
        self.curl("/locks/verify", &body)
    }
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Service:  {url}  (documentation: {url}/docs)", url = self.url)?;
        match &self.key {
            Key::Made(key) => {
                writeln!(f, "Key:      {}\nHeader:   X-API-Key: {}", key.text, key.text)?;
            }
            Key::Configured => {
                writeln!(f, "Key:      as configured; export a key as KEY for the lines below")?;
            }
        }
        writeln!(
            f,
            "\nConnect Claude Code over MCP, each window under its own agent name; docs/agents.md has other agents:\n"
        )?;
        writeln!(f, "{}\n", self.connect())?;
        writeln!(f, "Or try it in another terminal:\n")?;
        writeln!(f, "# {AGENT} acquires the lock on a file\n{}\n", self.acquire(AGENT))?;
        writeln!(f, "# agent-2 is refused\n{}\n", self.acquire("agent-2"))?;
        writeln!(
            f,
            "# a git hook verifies the fencing token of the lock like this\n{}\n",
            self.verify()
        )?;
        writeln!(f, "Ctrl-C stops everything.")
    }
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Chooses the first path that the agent can lock, and predicts the fencing token: that of the lock that
/// the agent already holds, or one more than that of the last holder.
fn choose(known: &[Known]) -> Lock {
    let mut number = 1;
    loop {
        let path = if number == 1 { "src/main.rs".into() } else { format!("src/main-{number}.rs") };
        let lock = known.iter().find(|lock| lock.path == path);
        match lock {
            None => return Lock { path, token: 1 },
            Some(lock) if !lock.is_live => return Lock { path, token: lock.token + 1 },
            Some(lock) if lock.is_ours => return Lock { path, token: lock.token },
            Some(_) => number += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::MadeKey;

    const FREE: (bool, bool) = (false, false);
    const OURS: (bool, bool) = (true, true);
    const ANOTHERS: (bool, bool) = (true, false);

    #[track_caller]
    fn check(known: &[(&str, i64, (bool, bool))], path: &str, token: i64) {
        let known: Vec<Known> = known
            .iter()
            .map(|&(path, token, (is_live, is_ours))| Known {
                path: path.to_owned(),
                token,
                is_live,
                is_ours,
            })
            .collect();
        assert_eq!(choose(&known), Lock { path: path.to_owned(), token });
    }

    #[test]
    fn the_token_is_that_of_the_first_request() {
        check(&[], "src/main.rs", 1);
        check(&[("src/main.rs", 4, FREE)], "src/main.rs", 5);
        check(&[("src/main.rs", 4, OURS)], "src/main.rs", 4);
        check(&[("src/main.rs", 4, ANOTHERS)], "src/main-2.rs", 1);
        check(
            &[
                ("src/main-2.rs", 7, ANOTHERS),
                ("src/main.rs", 4, ANOTHERS),
                ("src/main-3.rs", 1, FREE),
            ],
            "src/main-3.rs",
            2,
        );
    }

    #[test]
    fn no_command_line_of_a_request_has_the_key() {
        let greeting = |key| {
            let lock = Lock { path: "src/main.rs".to_owned(), token: 1 };
            Greeting { url: "http://x".to_owned(), key, lock }
        };
        let configured = greeting(Key::Configured).acquire("agent-1");
        let header_file = "/it's/key-header".into();
        let made = greeting(Key::Made(MadeKey { text: "dev_1".to_owned(), header_file })).verify();

        assert!(
            configured.starts_with(r#"printf 'X-API-Key: %s' "$KEY" | curl -sS -H @- -H"#),
            "{configured}"
        );
        assert!(made.starts_with(r"curl -sS -H '@/it'\''s/key-header' -H"), "{made}");
        assert!(!made.contains("dev_1"), "{made}");
    }
}
