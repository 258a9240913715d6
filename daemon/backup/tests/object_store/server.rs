//! A real server of object storage on a free port of the loopback, with users and their rights; it ends
//! with its test.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

/// The only bucket.
pub const BUCKET: &str = "backups";

/// A slow machine starts it in several seconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Where `cargo xtask test` has it.
fn program() -> PathBuf {
    let told = std::env::var_os("MATRIARCH_OBJECT_STORE").map(PathBuf::from);
    let beside = || {
        let own = std::env::current_exe().expect("this program");
        let target = own.ancestors().nth(3).expect("the target folder");
        target.join("object-store/bin/moto_server")
    };
    let program = told.unwrap_or_else(beside);
    assert!(
        program.exists(),
        "{} is missing: `cargo xtask setup` fetches it",
        program.display()
    );
    program
}

/// The running server.
pub struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    /// Starts it with one bucket; everybody may do everything until [`Server::enforce`].
    pub fn start() -> Server {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("it has one");
        drop(free);
        let mut server = Server {
            child: spawn(address),
            address,
        };
        server.wait();
        server
    }

    /// Starts it again where it was; it has forgotten everything.
    pub fn start_again(&mut self) {
        self.child = spawn(self.address);
        self.wait();
    }

    /// As a host that loses its power.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// It takes connections and says nothing any more.
    pub fn freeze(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    }

    fn wait(&mut self) {
        let until = Instant::now() + START_LIMIT;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.try_wait().expect("asked");
            assert!(ended.is_none(), "the object store ended: {ended:?}");
            assert!(Instant::now() < until, "the object store does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        self.ask("PUT", &format!("/{BUCKET}"), "s3", "");
    }

    /// From now on only what a policy allows.
    pub fn enforce(&self) {
        self.ask("POST", "/moto-api/reset-auth", "moto-api", "0");
    }

    /// A user who may do these actions; the file of credentials is written to `path`.
    pub fn user(&self, name: &str, statements: &[(&str, &str)], path: &Path) {
        let iam = |body: &str| self.ask("POST", "/", "iam", &format!("{body}&Version=2010-05-08"));
        iam(&format!("Action=CreateUser&UserName={name}"));
        let statements: Vec<String> = statements
            .iter()
            .map(|(actions, resource)| {
                format!(r#"{{"Effect":"Allow","Action":[{actions}],"Resource":"{resource}"}}"#)
            })
            .collect();
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{}]}}"#,
            statements.join(",")
        );
        iam(&format!(
            "Action=PutUserPolicy&UserName={name}&PolicyName=only&PolicyDocument={}",
            escaped(&policy)
        ));
        let made = iam(&format!("Action=CreateAccessKey&UserName={name}"));
        let id = between(&made, "<AccessKeyId>", "</AccessKeyId>");
        let secret = between(&made, "<SecretAccessKey>", "</SecretAccessKey>");
        self.credentials(&id, &secret, "", path);
    }

    /// A file of credentials.
    pub fn credentials(&self, id: &str, secret: &str, more: &str, path: &Path) {
        let mut options = std::fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(path).expect("opened");
        write!(
            file,
            "aws_endpoint = \"http://{}\"\naws_allow_http = true\naws_region = \"us-east-1\"\n\
             aws_access_key_id = \"{id}\"\naws_secret_access_key = \"{secret}\"\n{more}",
            self.address
        )
        .expect("written");
    }

    /// Asks as somebody whose signature is not looked at.
    fn ask(&self, method: &str, path: &str, service: &str, body: &str) -> String {
        let form = match service {
            "iam" => "application/x-www-form-urlencoded",
            _ => "text/plain",
        };
        let mut stream = TcpStream::connect(self.address).expect("connected");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
             Content-Type: {form}\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=anybody/20260101/us-east-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=none\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let is_good = answer
            .lines()
            .next()
            .is_some_and(|line| line.contains(" 200 "));
        assert!(is_good, "{method} {path} {body}: {answer}");
        answer
    }
}

fn spawn(address: SocketAddr) -> Child {
    Command::new(program())
        .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
        .env("INITIAL_NO_AUTH_ACTION_COUNT", "inf")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the object store starts")
}

fn between(text: &str, before: &str, after: &str) -> String {
    let found = text
        .split_once(before)
        .and_then(|(_, rest)| rest.split_once(after));
    found.expect("it is in the answer").0.to_owned()
}

/// As a form has it.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        let _ = write!(all, "%{byte:02X}");
        all
    })
}
