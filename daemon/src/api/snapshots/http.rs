//! HTTP for snapshots: `POST /snapshot`, `GET /snapshot`, `GET /snapshot/{uuid}`, `GET /snapshot/{uuid}.tar`.
//!
//! Beginning one and the file need the token, the rest is open. The file is 404 until it is complete; a
//! member that does not have it sends on to the one that does (307: most clients show the token to another
//! host only when told so, curl with `--location-trusted`).

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use cluster_core::model::{Snapshot, SnapshotId};
use serde_json::{Map, Value, json};

use super::{NoFile, Refused, Wish, begin, here, read};
use crate::api::http::{Answer, EPOCH_HEADER, Http, unsupported};
use crate::board::{Board, ProposeError};

/// One snapshot, as JSON.
fn document(id: &SnapshotId, snapshot: &Snapshot) -> Value {
    let (status, why) = snapshot.status();
    let members = snapshot.asked.iter().map(|name| {
        let (status, why) = snapshot.status_of(name);
        let mut member = json!({ "status": status.word() });
        if let Some(why) = why {
            member["reason"] = why.into();
        }
        (name.to_string(), member)
    });
    let members: Map<String, Value> = members.collect();
    let mut document = json!({
        "uuid": id.as_str(),
        "status": status.word(),
        "member": snapshot.taker.as_str(),
        "epoch": snapshot.epoch.0,
        "encrypted": !snapshot.recipients.is_empty(),
        "members": members,
    });
    if let Some(why) = why {
        document["reason"] = why.into();
    }
    if let Some(file) = snapshot.file() {
        document["bytes"] = file.bytes.into();
        document["sha256"] = file.sha256.as_str().into();
        document["timeline"] = file.timeline.0.into();
        document["lsn"] = file.end.to_string().into();
    }
    document
}

impl Http {
    /// Everything below `/snapshot`.
    pub(in crate::api) async fn snapshot(&self, board: &Board, request: Request) -> Response {
        let epoch = board.state.epoch().0;
        let path = request.uri().path().trim_matches('/').to_owned();
        let name = path.strip_prefix("snapshot").unwrap_or_default();
        let name = name.trim_start_matches('/').to_owned();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let answer = match (name.strip_suffix(".tar"), name.as_str()) {
            (None, "") if *request.method() == Method::POST => self.begin(request).await,
            (None, "") if is_read => catalogue(board),
            (None, id) if is_read => status(board, id),
            (Some(id), _) if is_read => match self.authorize(&request) {
                Err(refused) => refused,
                Ok(()) => {
                    let is_head = *request.method() == Method::HEAD;
                    match self.file(board, id, is_head).await {
                        Ok(response) => return response,
                        Err(answer) => answer,
                    }
                }
            },
            _ => unsupported(),
        };
        answer.into_response(epoch)
    }

    async fn begin(&self, request: Request) -> Answer {
        let body = match self.authorized_body(request).await {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let bad = |problems: Vec<String>| {
            Answer::text(
                StatusCode::BAD_REQUEST,
                format!("{}\n", problems.join("\n")),
            )
        };
        let wish = match wish(&body) {
            Ok(wish) => wish,
            Err(problems) => return bad(problems),
        };
        match begin(&self.asks, &self.snapshots, self.lease.now(), wish).await {
            Ok((id, snapshot)) => Answer::json(StatusCode::OK, &document(&id, &snapshot)),
            Err(Refused::Wish(problems)) => bad(problems),
            Err(Refused::Now(why)) => Answer::text(StatusCode::PRECONDITION_FAILED, why),
            Err(Refused::Propose(ProposeError::Rejected(why))) => {
                Answer::text(StatusCode::PRECONDITION_FAILED, why.to_string())
            }
            Err(Refused::Propose(error)) => {
                Answer::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
        }
    }

    async fn file(&self, board: &Board, id: &str, is_head: bool) -> Result<Response, Answer> {
        let missing = |why: String| Answer::text(StatusCode::NOT_FOUND, why);
        let id: SnapshotId = id
            .parse()
            .map_err(|error: cluster_core::model::ids::BadName| missing(error.to_string()))?;
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(EPOCH_HEADER, HeaderValue::from(board.state.epoch().0));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let bytes = match here(board, &id) {
            Ok(bytes) => bytes,
            Err(NoFile::None(why)) => return Err(missing(why)),
            Err(NoFile::Elsewhere(_, address)) => {
                let scheme = if self.is_https { "https" } else { "http" };
                let place = format!("{scheme}://{address}/snapshot/{id}.tar");
                let place = HeaderValue::try_from(place).map_err(|_| {
                    missing("where the file is has no address that can be sent".to_owned())
                })?;
                headers.insert(header::LOCATION, place);
                *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
                return Ok(response);
            }
        };
        let content = read(&self.snapshots, &id, bytes)
            .await
            .map_err(|error| missing(format!("snapshot {id}: {error}")))?;
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-tar"),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
        let name = format!("attachment; filename=\"snapshot-{id}.tar\"");
        if let Ok(name) = HeaderValue::try_from(name) {
            headers.insert(header::CONTENT_DISPOSITION, name);
        }
        if !is_head {
            *response.body_mut() = Body::from_stream(content);
        }
        Ok(response)
    }
}

fn catalogue(board: &Board) -> Answer {
    let mut all: Vec<_> = board.state.snapshots.iter().collect();
    all.sort_by_key(|(_, it)| std::cmp::Reverse(it.index));
    let all: Vec<Value> = all.into_iter().map(|(id, it)| document(id, it)).collect();
    Answer::json(StatusCode::OK, &Value::from(all))
}

fn status(board: &Board, text: &str) -> Answer {
    let id = text.parse::<SnapshotId>();
    let found = id.ok().and_then(|id| {
        let snapshot = board.state.snapshots.get(&id)?;
        Some(document(&id, snapshot))
    });
    match found {
        Some(document) => Answer::json(StatusCode::OK, &document),
        None => Answer::text(
            StatusCode::NOT_FOUND,
            format!("there is no snapshot {text}"),
        ),
    }
}

/// `{"member": "m2", "recipients": ["age1…"], "plain": false}`, every key optional.
fn wish(body: &[u8]) -> Result<Wish, Vec<String>> {
    let mut wish = Wish {
        by: "HTTP API".to_owned(),
        ..Wish::default()
    };
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(wish);
    }
    let Ok(Value::Object(found)) = serde_json::from_slice(body) else {
        return Err(vec!["invalid JSON: an object is expected".to_owned()]);
    };
    let mut problems = Vec::new();
    for (key, value) in found {
        match (key.as_str(), value) {
            ("member", Value::String(name)) => wish.member = Some(name),
            ("plain", Value::Bool(plain)) => wish.plain = plain,
            ("recipients", Value::Array(list)) if list.iter().all(Value::is_string) => {
                let texts = list.iter().filter_map(Value::as_str);
                wish.recipients = texts.map(str::to_owned).collect();
            }
            ("member" | "plain" | "recipients", other) => {
                problems.push(format!("{key}: {other} will not do"));
            }
            _ => problems.push(format!("{key}: unknown (member, recipients, plain)")),
        }
    }
    match problems.is_empty() {
        true => Ok(wish),
        false => Err(problems),
    }
}
