//! HTTP, Patroni-compatible: routing, methods, codes and headers. Everything is answered from the
//! board; only the five write endpoints and `PATCH /config` wait, and only for their own request.
//!
//! Surprises kept for the configurations in the wild: the first path segment decides, an unknown
//! path is 503 with the status body and never 404, and OPTIONS and HEAD on a health path answer
//! with a code alone. Unlike Patroni, HEAD and OPTIONS on the other paths answer as GET.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query as AxumQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use cluster_core::change::Rejected;
use cluster_core::model::Settings;
use serde_json::Value;

use super::asks::Asks;
use super::config_document;
use super::documents;
use super::events::{self, Followers, Start};
use super::health::{self, Health, Query};
use super::planned;
use super::settings::{self, Wish};
use super::snapshots;
use super::topology::{self, DsnRole};
use super::ui;
use super::writes::{self, Endpoint};
use crate::board::{Board, Foresight, LeaseView, ProposeError, TrySettings};
use crate::metrics;
use crate::secret::AdminToken;

/// Carries the epoch on every answer.
pub const EPOCH_HEADER: HeaderName = HeaderName::from_static("x-clusterd-epoch");

/// Most bytes a request body may have.
const BODY_LIMIT: usize = 64 * 1024;

/// So many events a new follower of `/events` is told, unless it says.
const EVENTS_FIRST: u64 = 50;

/// What the handlers read.
pub struct Http {
    /// The board, and the way to propose.
    pub asks: Asks,
    /// Who follows the events.
    pub followers: Followers,
    /// The lease.
    pub lease: Arc<dyn LeaseView>,
    /// Who could be promoted.
    pub foresight: Arc<dyn Foresight>,
    /// What every member's PostgreSQL says to settings.
    pub try_settings: Arc<dyn TrySettings>,
    /// The shared token of operators; none refuses every write.
    pub token: Option<AdminToken>,
    /// Whether this listener speaks TLS, for the addresses it shows.
    pub is_https: bool,
    /// Files of snapshots on this member.
    pub snapshots: snapshots::Shelf,
}

/// The whole HTTP API.
pub fn router(http: Arc<Http>) -> Router {
    Router::new().fallback(handle).with_state(http)
}

async fn handle(State(http): State<Arc<Http>>, request: Request) -> Response {
    let board = http.asks.board();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let answer = match first_segment(request.uri()) {
        "events" if is_read => return http.events(&request, board.state.epoch().0),
        "ui" if is_read => return http.page(&board, &request),
        "snapshot" => return http.snapshot(&board, request).await,
        _ => http.answer(&board, request).await,
    };
    answer.into_response(board.state.epoch().0)
}

/// An answer before it becomes a response.
pub(super) struct Answer {
    pub(super) code: StatusCode,
    kind: &'static str,
    body: String,
    asks_for_token: bool,
    /// Shown as the ETag.
    revision: Option<u64>,
}

impl Answer {
    pub(super) fn text(code: StatusCode, body: impl Into<String>) -> Answer {
        Answer {
            code,
            kind: "text/html",
            body: body.into(),
            asks_for_token: false,
            revision: None,
        }
    }

    pub(super) fn json(code: StatusCode, body: &Value) -> Answer {
        Answer {
            kind: "application/json",
            ..Answer::text(code, body.to_string())
        }
    }

    fn code_alone(is_ok: bool) -> Answer {
        let code = if is_ok {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        Answer::text(code, "")
    }

    pub(super) fn into_response(self, epoch: u64) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        common_headers(headers, epoch);
        if let Some(revision) = self.revision
            && let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\""))
        {
            headers.insert(header::ETAG, tag);
        }
        if self.asks_for_token {
            let realm = HeaderValue::from_static("Bearer realm=\"clusterd\"");
            headers.insert(header::WWW_AUTHENTICATE, realm);
        }
        response
    }
}

fn common_headers(headers: &mut HeaderMap, epoch: u64) {
    headers.insert(EPOCH_HEADER, HeaderValue::from(epoch));
    // Health is of this very moment: nobody on the way may keep it.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

pub(super) fn unsupported() -> Answer {
    Answer::text(StatusCode::NOT_IMPLEMENTED, "Unsupported method")
}

fn first_segment(uri: &Uri) -> &str {
    uri.path()
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default()
}

fn query_of(uri: &Uri) -> Query {
    AxumQuery::<Vec<(String, String)>>::try_from_uri(uri)
        .map(|AxumQuery(pairs)| Query(pairs))
        .unwrap_or_default()
}

fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

impl Http {
    async fn answer(&self, board: &Board, request: Request) -> Answer {
        match *request.method() {
            Method::GET | Method::HEAD | Method::OPTIONS => self.read(board, &request),
            Method::POST => self.write(request).await,
            Method::DELETE => self.take_back(request).await,
            Method::PATCH | Method::PUT => self.configure(request).await,
            _ => unsupported(),
        }
    }

    /// `/events`: after the header `Last-Event-ID` or the query `after`, else the newest `limit`.
    fn events(&self, request: &Request, epoch: u64) -> Response {
        let query = query_of(request.uri());
        let header = request.headers().get("last-event-id");
        let seen = match header.map(HeaderValue::to_str) {
            Some(text) => Some(text.unwrap_or("?")),
            None => query.first("after"),
        };
        let number = |text: &str| text.trim().parse::<u64>();
        let limit = query.first("limit").map_or(Ok(EVENTS_FIRST), number);
        let start = match (seen.map(number), limit) {
            (Some(Ok(index)), _) => Start::After(index),
            (None, Ok(limit)) => Start::Newest(usize::try_from(limit).unwrap_or(usize::MAX)),
            (Some(Err(_)), _) | (None, Err(_)) => {
                let text = "Last-Event-ID, after, limit: a number is expected\n";
                return Answer::text(StatusCode::BAD_REQUEST, text).into_response(epoch);
            }
        };
        let stops_at_end = request.method() == Method::HEAD;
        match self.followers.follow(start, stops_at_end) {
            Ok(told) => {
                let mut response = events::server_sent(told).into_response();
                common_headers(response.headers_mut(), epoch);
                response
            }
            Err(why) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, why).into_response(epoch),
        }
    }

    /// `/ui` and what it asks for.
    fn page(&self, board: &Board, request: &Request) -> Response {
        let epoch = board.state.epoch().0;
        match request.uri().path().trim_end_matches('/') {
            "/ui" => {
                let (page, policy) = ui::page();
                let answer = Answer {
                    kind: "text/html; charset=utf-8",
                    ..Answer::text(StatusCode::OK, page)
                };
                let mut response = answer.into_response(epoch);
                let headers = response.headers_mut();
                let mut put = |name, value: &str| {
                    if let Ok(value) = HeaderValue::from_str(value) {
                        headers.insert(name, value);
                    }
                };
                put(header::CONTENT_SECURITY_POLICY, &policy);
                put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
                put(header::REFERRER_POLICY, "no-referrer");
                response
            }
            "/ui/state" => {
                let lease = self.lease.as_ref();
                let state = ui::state(board, lease, self.foresight.as_ref(), wall());
                Answer::json(StatusCode::OK, &state).into_response(epoch)
            }
            _ => {
                let text = "there is /ui and /ui/state\n";
                Answer::text(StatusCode::NOT_FOUND, text).into_response(epoch)
            }
        }
    }

    fn read(&self, board: &Board, request: &Request) -> Answer {
        let lease = self.lease.as_ref();
        let query = query_of(request.uri());
        let status = || documents::status(board, lease, wall());
        match first_segment(request.uri()) {
            "patroni" => Answer::json(StatusCode::OK, &status()),
            "cluster" => Answer::json(
                StatusCode::OK,
                &documents::cluster(board, lease, self.is_https),
            ),
            "config" if board.state.identity.is_none() => {
                Answer::text(StatusCode::BAD_GATEWAY, "the group has not formed yet")
            }
            "config" => configured(&board.state.settings, board.state.settings_revision()),
            "history" => Answer::json(StatusCode::OK, &documents::history(board)),
            "dsn" => dsn(board, lease, &query),
            "metrics" => Answer {
                kind: "text/plain; version=0.0.4; charset=utf-8",
                ..Answer::text(StatusCode::OK, metrics::text(board, lease, wall()))
            },
            "liveness" => Answer::code_alone(health::is_alive(board, lease.now())),
            "readiness" => {
                let limit = board.state.settings.maximum_lag_on_failover_bytes;
                Answer::code_alone(Health::of(board, lease).is_ready(&query, limit))
            }
            "failsafe" => {
                Answer::text(StatusCode::BAD_GATEWAY, "failsafe mode does not exist here")
            }
            _ => {
                let is_ok = Health::of(board, lease).is_ok(request.uri().path(), &query);
                let answer = Answer::code_alone(is_ok);
                match *request.method() {
                    Method::GET => Answer::json(answer.code, &status()),
                    _ => answer,
                }
            }
        }
    }

    async fn write(&self, request: Request) -> Answer {
        let Some(endpoint) = Endpoint::of(first_segment(request.uri())) else {
            return unsupported();
        };
        let body = match self.authorized_body(request).await {
            Ok(body) => body,
            Err(refused) => return refused,
        };
        let (code, text) =
            writes::answer(endpoint, &body, &self.asks, self.foresight.as_ref()).await;
        Answer::text(code, text)
    }

    /// `DELETE /switchover` and `DELETE /restart`: what is scheduled.
    async fn take_back(&self, request: Request) -> Answer {
        let endpoint = match Endpoint::of(first_segment(request.uri())) {
            Some(endpoint @ (Endpoint::Switchover | Endpoint::Restart)) => endpoint,
            Some(_) | None => return unsupported(),
        };
        if let Err(refused) = self.authorize(&request) {
            return refused;
        }
        let (code, text) = planned::http::take_back(endpoint, &self.asks).await;
        Answer::text(code, text)
    }

    /// `PATCH /config`: a part of the settings' document; `PUT /config`: the whole. Answers with the whole.
    /// `If-Match` with the revision that was read refuses it when somebody else was faster.
    async fn configure(&self, request: Request) -> Answer {
        if first_segment(request.uri()) != "config" {
            return unsupported();
        }
        let replaces = *request.method() == Method::PUT;
        let seen = request.headers().get(header::IF_MATCH).cloned();
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
        let Ok(body) = serde_json::from_slice(&body) else {
            return bad(vec!["invalid JSON: an object is expected".to_owned()]);
        };
        let expected = match seen.map(|it| revision(&it)) {
            Some(None) => {
                return bad(vec![
                    "If-Match: the ETag of GET /config is expected".to_owned(),
                ]);
            }
            Some(revision) => revision,
            None => None,
        };
        let found = match config_document::assignments(&body) {
            Ok(found) => found,
            Err(problems) => return bad(problems),
        };
        let wish = if replaces {
            Wish::Replace(found)
        } else {
            Wish::Assign(found)
        };
        let is = self.asks.board().state.settings_revision();
        if expected.is_some_and(|expected| expected != is) {
            return moved(&Rejected::SettingsMoved {
                expected: expected.unwrap_or_default(),
                revision: is,
            });
        }
        let (tried, now) = (self.try_settings.as_ref(), self.lease.now());
        let planned = match settings::plan(&self.asks, tried, now, &wish, expected).await {
            Ok(planned) => planned,
            Err(problems) => return bad(problems),
        };
        match settings::carry_out(&self.asks, &planned, "HTTP API").await {
            Ok(()) => configured(&planned.next, self.asks.board().state.settings_revision()),
            Err(ProposeError::Rejected(why @ Rejected::SettingsMoved { .. })) => moved(&why),
            Err(ProposeError::Rejected(why)) => bad(vec![why.to_string()]),
            Err(error) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }

    pub(super) async fn authorized_body(
        &self,
        request: Request,
    ) -> Result<axum::body::Bytes, Answer> {
        self.authorize(&request)?;
        let body = axum::body::to_bytes(request.into_body(), BODY_LIMIT).await;
        body.map_err(|_| {
            let text = format!("the body is broken or longer than {BODY_LIMIT} bytes");
            Answer::text(StatusCode::BAD_REQUEST, text)
        })
    }

    pub(super) fn authorize(&self, request: &Request) -> Result<(), Answer> {
        let Some(token) = &self.token else {
            return Err(Answer::text(
                StatusCode::FORBIDDEN,
                super::NO_TOKEN_CONFIGURED,
            ));
        };
        let unauthorized = |text| Answer {
            asks_for_token: true,
            ..Answer::text(StatusCode::UNAUTHORIZED, text)
        };
        let given = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| unauthorized("no auth header received"))?;
        match super::bearer(given) {
            Some(given) if token.is(given) => Ok(()),
            Some(_) | None => Err(unauthorized("not authenticated")),
        }
    }
}

/// The revision in an `If-Match` header: a number, in quotes or not.
fn revision(header: &HeaderValue) -> Option<u64> {
    header.to_str().ok()?.trim().trim_matches('"').parse().ok()
}

/// The document, with its revision as the ETag.
fn configured(settings: &Settings, revision: u64) -> Answer {
    Answer {
        revision: Some(revision),
        ..Answer::json(StatusCode::OK, &config_document::document(settings))
    }
}

fn moved(why: &Rejected) -> Answer {
    Answer::text(StatusCode::PRECONDITION_FAILED, why.to_string())
}

fn dsn(board: &Board, lease: &dyn LeaseView, query: &Query) -> Answer {
    let role = match query.first("role") {
        None | Some("any") => DsnRole::Any,
        Some("primary" | "leader") => DsnRole::Primary,
        Some("replica" | "standby") => DsnRole::Replica,
        Some(_) => {
            let text = "role: expected any, primary or replica";
            return Answer::text(StatusCode::BAD_REQUEST, text);
        }
    };
    let found = topology::dsn(board, lease.now(), role);
    let plain = |code, text: String| Answer {
        kind: "text/plain",
        ..Answer::text(code, text)
    };
    match found {
        Some(dsn) => plain(StatusCode::OK, format!("{dsn}\n")),
        None => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "there is nothing to connect to\n".to_owned(),
        ),
    }
}
