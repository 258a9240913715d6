//! A real browser, Chromium without a window, steered by the DevTools protocol over two pipes: no port,
//! and nobody else can reach it. What its console says is collected from the first moment on.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::host::log_file;

/// How long one answer of the browser may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Started by a shell, because only that puts the pipes where the browser looks for them: 3 and 4.
const WITH_PIPES: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >&2";

/// A running browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<Value>,
    session: String,
    number: u64,
    said: VecDeque<Value>,
}

/// A way to look at a page.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// CSS pixels.
    pub width: u32,
    /// CSS pixels; the whole page is taken, however long it is, with none.
    pub height: Option<u32>,
    /// `dark` rather than `light`.
    pub is_dark: bool,
}

impl Browser {
    /// Starts one where the clients live.
    ///
    /// # Errors
    /// It is not installed, or does not answer.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let programs = ["/usr/bin/chromium", "/usr/bin/chromium-browser"];
        let found = programs.into_iter().find(|it| Path::new(it).exists());
        let program = found.context("Chromium is not installed (cargo xtask setup)")?;
        let home = cluster.folder.join("browser");
        std::fs::create_dir_all(&home).context("make the browser's folder")?;
        let mut command = cluster.clients.command(Path::new("sh"));
        command.args(["-c", WITH_PIPES, program]).args([
            "--headless=new",
            // The test is root, in a control group and a network of its own.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", home.display()));
        command.env("HOME", &home);
        let talk = log_file(&cluster.folder.join("browser.log"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(talk).spawn().context("start Chromium")?;
        let orders = child.stdin.take().context("its input is a pipe")?;
        let output = child.stdout.take().context("its output is a pipe")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let messages = BufReader::new(output).split(0);
            for message in messages.map_while(Result::ok) {
                let message = serde_json::from_slice(&message).unwrap_or(Value::Null);
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            orders,
            answers,
            session: String::new(),
            number: 0,
            said: VecDeque::new(),
        };
        browser.attach()?;
        Ok(browser)
    }

    fn attach(&mut self) -> Result<()> {
        let made = self.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let wanted = json!({ "targetId": made["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", &wanted)?;
        let session = attached["sessionId"].as_str();
        session.context("no session")?.clone_into(&mut self.session);
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(())
    }

    /// One order, and its answer.
    ///
    /// # Errors
    /// The browser refuses it, or says nothing.
    pub fn call(&mut self, method: &str, wanted: &Value) -> Result<Value> {
        self.number += 1;
        let mut order = json!({ "id": self.number, "method": method, "params": wanted });
        if !self.session.is_empty() {
            order["sessionId"] = json!(self.session);
        }
        let mut bytes = order.to_string().into_bytes();
        bytes.push(0);
        self.orders.write_all(&bytes).context("tell the browser")?;
        self.orders.flush().context("tell the browser")?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.answers.recv_timeout(left);
            let message = message.with_context(|| format!("the browser's answer to {method}"))?;
            if message["id"] != json!(self.number) {
                self.said.push_back(message);
                continue;
            }
            if message["error"].is_object() {
                bail!("{method}: {}", message["error"]);
            }
            return Ok(message["result"].clone());
        }
    }

    /// Goes to a page and waits until it is loaded.
    ///
    /// # Errors
    /// Nobody answers there.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let went = self.call("Page.navigate", &json!({ "url": url }))?;
        if let Some(why) = went["errorText"].as_str() {
            bail!("{url}: {why}");
        }
        let is_loaded = "document.readyState === 'complete' && location.href !== 'about:blank'";
        crate::wait_until(&format!("{url} is loaded"), ANSWER_LIMIT, || {
            match self.evaluate(is_loaded) {
                Ok(Value::Bool(true)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    }

    /// The value of an expression on the page.
    ///
    /// # Errors
    /// It throws.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let wanted =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", &wanted)?;
        if answer["exceptionDetails"].is_object() {
            bail!("{expression}: {}", answer["exceptionDetails"]);
        }
        Ok(answer["result"]["value"].clone())
    }

    /// The text of the first element that the selector finds; empty without one.
    ///
    /// # Errors
    /// No such selector.
    pub fn text(&mut self, selector: &str) -> Result<String> {
        let found = self.evaluate(&format!(
            "(document.querySelector({}) || {{}}).textContent || ''",
            json!(selector)
        ))?;
        Ok(found.as_str().unwrap_or_default().to_owned())
    }

    /// Errors of the console and of scripts, until now.
    ///
    /// # Errors
    /// The browser is gone.
    pub fn errors(&mut self) -> Result<Vec<String>> {
        // What was sent before its answer is here after it.
        self.evaluate("0")?;
        let is_error = |message: &&Value| match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => message["params"]["type"] == "error",
            Some("Log.entryAdded") => message["params"]["entry"]["level"] == "error",
            Some(_) | None => false,
        };
        let said = self.said.iter().filter(is_error);
        Ok(said.map(|message| message["params"].to_string()).collect())
    }

    /// The page as this look shows it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn picture(&mut self, look: Look, file: &PathBuf) -> Result<()> {
        let scheme = if look.is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", &media)?;
        self.resize(look.width, look.height.unwrap_or(800))?;
        if look.height.is_none() {
            let whole = self.evaluate("document.documentElement.scrollHeight")?;
            let whole = u32::try_from(whole.as_u64().unwrap_or(800)).unwrap_or(800);
            self.resize(look.width, whole)?;
        }
        let taken = self.call("Page.captureScreenshot", &json!({ "format": "png" }))?;
        let data = taken["data"].as_str().context("no picture")?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(data)?;
        std::fs::write(file, bytes).with_context(|| format!("write {}", file.display()))
    }

    /// Another size of the window.
    ///
    /// # Errors
    /// The browser is gone.
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", &size)
            .map(drop)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its processes are in the clients' control group, which ends with the cluster in any case.
        let _ = self.call("Browser.close", &json!({}));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
