//! A folder to run the program in, the running program, and requests to it.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    thread,
    time::Duration,
};

use managed_postgres::Server;

/// How long the program can take to start or to end, on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
const LAST_LINE: &str = "Ctrl-C stops everything.";

/// A folder to run the program in.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("local-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        Folder(dir)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_local"));
        command.args(arguments).current_dir(&self.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for name in [
            "API_PORT",
            "PORT",
            "POSTGRES_DSN",
            "DATABASE_URL",
            "POSTGRES_PASSWORD",
            "POSTGRES_DB",
            "AGENT_COORDINATOR_DB_PORT",
            "COORDINATION_API_KEYS",
            "COORDINATION_API_KEY_IDENTITIES",
            "DB_BACKEND",
            "RUST_LOG",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Runs the program where it is expected to end by itself. Returns its exit code and standard error.
    pub(crate) fn refused(&self, arguments: &[&str]) -> (i32, String) {
        refused(self.command(arguments))
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::new(self.command(arguments))
    }

    pub(crate) fn postgres(&self) -> u32 {
        self.postgres_now().unwrap()
    }

    /// Returns the process id of the server, unless it is restarting.
    pub(crate) fn postgres_now(&self) -> Option<u32> {
        let file = self.0.join(".local/postgres/data/postmaster.pid");
        fs::read_to_string(file).ok()?.lines().next()?.parse().ok()
    }

    /// Puts a `docker` on the path that logs its arguments and then runs a script, and makes a compose file.
    pub(crate) fn fake_docker(&self, command: &mut Command, script: &str) {
        let docker = self.0.join("bin/docker");
        fs::create_dir(self.0.join("bin")).unwrap();
        fs::write(&docker, format!("#!/bin/sh\necho \"$*\" >>calls\n{script}\n")).unwrap();
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(self.0.join("docker-compose.yml"), "services: {}\n").unwrap();
        #[expect(clippy::disallowed_methods, reason = "passed on with a folder added")]
        let path = std::env::var_os("PATH").unwrap();
        let path = format!("{}:{}", self.0.join("bin").display(), path.display());
        command.env("PATH", path);
    }

    pub(crate) fn docker_calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.join("calls")).unwrap();
        calls.lines().map(str::to_owned).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn refused(mut command: Command) -> (i32, String) {
    let output = wait_for_end(command.spawn().unwrap());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

pub(crate) fn send_signal(pid: u32, name: &str) {
    let script = format!("kill -s {name} {pid}");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}

/// Waits for the end of a process. Kills it and fails after `LIMIT`.
fn wait_for_end(child: Child) -> Output {
    let pid = child.id();
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(LIMIT) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            send_signal(pid, "KILL");
            panic!("process {pid} did not end within {LIMIT:?}");
        }
    }
}

/// Reads lines up to the last one of the greeting, or to the end of the output. Fails after `LIMIT`.
fn read_greeting(output: ChildStdout) -> String {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut greeting = String::new();
        let mut lines = BufReader::new(output);
        while !greeting.ends_with(&format!("{LAST_LINE}\n"))
            && lines.read_line(&mut greeting).is_ok_and(|length| length > 0)
        {}
        sender.send(greeting)
    });
    receiver.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no greeting within {LIMIT:?}"))
}

/// A program that serves.
pub(crate) struct Running {
    /// Absent once the program has ended.
    child: Option<Child>,
    greeting: String,
}

impl Running {
    pub(crate) fn new(mut command: Command) -> Running {
        let mut child = command.spawn().unwrap();
        let output = child.stdout.take().unwrap();
        let mut running = Running { child: Some(child), greeting: String::new() };
        running.greeting = read_greeting(output);
        if !running.greeting.contains(LAST_LINE) {
            let output = wait_for_end(running.child.take().unwrap());
            panic!("the program ended: {output:?} after {}", running.greeting);
        }
        running
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn line(&self, start: &str) -> &str {
        let line = self.greeting.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("no line {start} in {}", self.greeting))
    }

    pub(crate) fn address(&self) -> &str {
        let url = self.line("Service:").split_whitespace().nth(1).unwrap();
        url.strip_prefix("http://").unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        send(self.address(), &format!("GET {path} HTTP/1.1\r\n"), "")
    }

    /// Sends the printed requests, as if a developer had pasted them, and returns the answers.
    pub(crate) fn pasted(&self) -> Vec<String> {
        self.greeting.lines().filter(|line| line.starts_with("curl")).map(paste).collect()
    }

    /// Sends a signal that ends the program, and returns the exit code.
    pub(crate) fn end_by(&mut self, signal: &str) -> i32 {
        send_signal(self.pid(), signal);
        wait_for_end(self.child.take().unwrap()).status.code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends the request of a printed command line, without `curl`, which may not be installed.
pub(crate) fn paste(line: &str) -> String {
    let parts: Vec<&str> = line.split('\'').collect();
    let ["curl -sS -H ", header_file, " -H ", json, " -d ", body, url] = parts[..] else {
        panic!("cannot be pasted: {line}");
    };
    let key = fs::read_to_string(header_file.strip_prefix('@').unwrap()).unwrap();
    let key = key.trim_end();
    let url = url.trim().strip_prefix("http://").unwrap();
    let (address, path) = url.split_once('/').unwrap();
    let head = format!("POST /{path} HTTP/1.1\r\n{key}\r\n{json}\r\n");
    let (status, answer) = send(address, &head, body);
    assert_eq!(status, 200, "{line}: {answer}");
    answer
}

pub(crate) fn send(address: &str, head: &str, body: &str) -> (u16, String) {
    send_as(address, address, head, body)
}

/// Sends a request to an address with another name in the `Host` header.
pub(crate) fn send_as(host: &str, address: &str, head: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let rest = format!("Host: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{rest}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Returns a server's port and password, for the variables of the compose file.
pub(crate) fn port_and_password(server: &Server) -> (String, String) {
    let url = server.url("postgres");
    let (user, rest) = url.split_once('@').unwrap();
    let port = rest.split([':', '/']).nth(1).unwrap();
    (port.to_owned(), user.rsplit_once(':').unwrap().1.to_owned())
}
