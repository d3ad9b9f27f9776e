//! What every request passes before it is handled, in upstream's order: panics are caught, time is limited, the
//! caller is known (and perhaps acts as somebody else), the caller may.

use crate::audit;
use crate::features::Features;
use crate::handlers::{self, Exchange, attributes};
use crate::impersonate;
use crate::request::{Output, Query, RequestInfo, Verb, negotiate, query};
use crate::respond;
use crate::server::Core;
use access::admission::Notes;
use access::audit::{Record, Stage};
use access::authentication::{Authenticator as _, Credentials, Outcome};
use access::authorization::{Attributes, Decision};
use access::fairness::{Class, Refused, Seat};
use client::InProcessIdentity;
use futures::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use machinery::gvk::GroupResource;
use machinery::status::ApiError;
use machinery::user::UserInfo;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use wire::body::Body;
use wire::server::Connection;

/// How long a request may take that is neither a watch nor a stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Paths anybody may read.
const PUBLIC: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];

/// Answers a request.
pub(crate) async fn serve(core: Arc<Core>, request: Request<Body>) -> Response<Body> {
    match AssertUnwindSafe(audited(core, request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            // The panic hook has logged what and where.
            let error =
                ApiError::internal("This request caused apiserver to panic. Look in the logs for details.");
            respond::error(&error, &Output::JSON)
        }
    }
}

async fn audited(core: Arc<Core>, request: Request<Body>) -> Response<Body> {
    let audit_id = match request.headers().get(respond::AUDIT_ID) {
        Some(given) if given.len() <= 64 => given.clone(),
        _ => audit_id(),
    };
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let notes = Arc::new(Notes::default());
    let error_output = error_output(&request, &query, core.features);
    let class = OnceLock::new();
    let audited = Audited {
        audit_id: &audit_id,
        received: core.audit.as_ref().map(|_| core.registry.clock.now()),
        record: OnceLock::new(),
    };
    let path = query::decode_path(request.uri().path());
    let mut long_running = false;
    let mut response = match RequestInfo::parse(request.method(), &path, &query) {
        Ok(info) => {
            long_running = info.is_long_running();
            let apply = request
                .headers()
                .get(CONTENT_TYPE)
                .is_some_and(|v| v.as_bytes().starts_with(b"application/apply-patch+"));
            let running = core.metrics.begin(&info, &query, request.method(), apply);
            let answered = known(core, request, info, query, &notes, (&class, &audited)).await;
            running.end(answered.unwrap_or_else(|error| respond::error(&error, &error_output)))
        }
        Err(error) => respond::error(&ApiError::bad_request(error.to_string()), &error_output),
    };
    respond::add_warnings(&mut response, notes.take_warnings());
    if let Some(class) = class.into_inner() {
        say_class(&mut response, &class);
    }
    if let Some(record) = audited.record.into_inner() {
        response = audit::answered(record, &notes, response, long_running).await;
    }
    response.headers_mut().insert(respond::AUDIT_ID, audit_id);
    response
}

/// What audit needs of a request, and its record once there is one.
struct Audited<'a> {
    audit_id: &'a HeaderValue,
    /// Only if somebody audits.
    received: Option<jiff::Timestamp>,
    record: OnceLock<Arc<Record>>,
}

impl Audited<'_> {
    /// A record of the request by this user, if one is wanted.
    fn begin(
        &self,
        core: &Core,
        request: &Request<Body>,
        known: (&RequestInfo, &Query, &UserInfo),
    ) -> Option<Arc<Record>> {
        let auditor = core.audit.as_ref()?;
        audit::begin(auditor, request, known, (self.audit_id, self.received?))
    }
}

async fn known(
    core: Arc<Core>,
    request: Request<Body>,
    info: RequestInfo,
    query: Query,
    notes: &Arc<Notes>,
    (class, audited): (&OnceLock<Class>, &Audited<'_>),
) -> Result<Response<Body>, ApiError> {
    let caller = authenticate(&core, &request).await.inspect_err(|_| {
        if let Some(record) = audited.begin(&core, &request, (&info, &query, &UserInfo::default())) {
            audit::unauthenticated(&record, request.headers());
        }
    })?;
    let record = audited.begin(&core, &request, (&info, &query, &caller));
    if let Some(record) = &record {
        audited.record.get_or_init(|| Arc::clone(record));
        if !record.stage(Stage::RequestReceived) {
            return Err(ApiError::internal("failed to store audit event"));
        }
    }
    let subject = {
        let asked = attributes(&info, &caller, &query);
        impersonate::subject(&core, request.headers(), &caller, &asked).await?
    };
    let user = subject.user;
    if let Some(record) = record.as_ref().filter(|_| !Arc::ptr_eq(&user, &caller)) {
        record.impersonates(&user, &subject.constraint);
    }
    let long = info.is_long_running();
    // A watch holds its seat until it has begun; what only streams holds none.
    let _seat = if long && info.verb != Verb::Watch {
        None
    } else {
        wait_for_turn(&core, &attributes(&info, &user, &query), class).await?
    };
    let asked = attributes(&info, &user, &query);
    let decision = decide(&core, &asked).await;
    if let Some(record) = &record {
        let (said, reason) = match &decision {
            Ok(()) => ("allow", core.authorizer.allowed_by(&asked).await),
            Err(reason) => ("forbid", reason.clone()),
        };
        record.annotate("authorization.k8s.io/decision", said);
        record.annotate("authorization.k8s.io/reason", reason);
    }
    decision.map_err(|reason| forbidden(&asked, &reason))?;
    let exchange = Exchange {
        core,
        info,
        query,
        user,
        notes: Arc::clone(notes),
        record,
        request,
        protobuf: true,
    };
    let remote = crate::aggregation::find(&exchange.core, &exchange.info);
    let answer = async {
        if let Some(remote) = remote {
            crate::aggregation::answer(exchange, &remote).await
        } else if exchange.info.is_resource {
            handlers::resource(exchange).await
        } else {
            crate::paths::answer(exchange).await
        }
    };
    if long {
        return answer.await;
    }
    tokio::time::timeout(REQUEST_TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| {
            Err(ApiError::timeout(
                "request did not complete within the allotted timeout",
                0,
            ))
        })
}

/// A seat of the request's priority level, if it needs one.
async fn wait_for_turn(
    core: &Core,
    attributes: &Attributes<'_>,
    class: &OnceLock<Class>,
) -> Result<Option<Seat>, ApiError> {
    let Some(fairness) = &core.fairness else {
        return Ok(None);
    };
    let (known, outcome) = match fairness.enter(attributes).await {
        Ok(None) => return Ok(None),
        Ok(Some(entry)) => (entry.class, Ok(entry.seat)),
        // Who asks for health is told of it also while the store, and so the flow schemas, cannot be read.
        Err(Refused::Error(_)) if is_public(attributes) => return Ok(None),
        Err(Refused::Error(error)) => return Err(error),
        Err(Refused::Rejected(class, why)) => {
            tracing::debug!(user = attributes.user.name, ?why, "turned away");
            let error = ApiError::too_many_requests("Too many requests, please try again later.", 1);
            (class, Err(error))
        }
    };
    class.get_or_init(|| known);
    outcome
}

/// Tells the client what its request was taken for.
fn say_class(response: &mut Response<Body>, class: &Class) {
    for (name, uid) in [
        ("x-kubernetes-pf-flowschema-uid", &class.schema_uid),
        ("x-kubernetes-pf-prioritylevel-uid", &class.level_uid),
    ] {
        if let Ok(uid) = HeaderValue::from_str(uid) {
            response.headers_mut().insert(name, uid);
        }
    }
}

/// Whoever says nothing of himself is anonymous; credentials that nobody recognizes are an error, as upstream has it.
async fn authenticate(core: &Core, request: &Request<Body>) -> Result<Arc<UserInfo>, ApiError> {
    // Only this process can put an identity there: wire gives network requests none.
    let connection = request.extensions().get::<Arc<Connection>>();
    if connection.is_none()
        && let Some(InProcessIdentity(user)) = request.extensions().get()
    {
        return Ok(Arc::clone(user));
    }
    let credentials = Credentials {
        headers: request.headers(),
        connection: connection.map(Arc::as_ref),
    };
    match core.authenticator.authenticate(&credentials).await {
        Ok(Outcome::User(user)) => Ok(user),
        Ok(Outcome::NotMine) if has_bearer_token(request) => Err(ApiError::unauthorized()),
        Ok(Outcome::NotMine) if core.anonymous.allows(request.uri().path()) => {
            Ok(Arc::new(UserInfo::anonymous()))
        }
        Ok(Outcome::NotMine) => Err(ApiError::unauthorized()),
        Err(error) => {
            tracing::debug!(%error, "authentication failed");
            Err(ApiError::unauthorized())
        }
    }
}

/// Whether the user may do this; 403 in upstream's words if not.
pub(crate) async fn authorize(core: &Core, attributes: &Attributes<'_>) -> Result<(), ApiError> {
    let decision = decide(core, attributes).await;
    decision.map_err(|reason| forbidden(attributes, &reason))
}

/// Whether the user may do this, or what is said against it.
pub(crate) async fn decide(core: &Core, attributes: &Attributes<'_>) -> Result<(), String> {
    if is_public(attributes) {
        return Ok(());
    }
    match core.authorizer.authorize(attributes).await {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(reason),
    }
}

/// Health and version, which everybody may read.
fn is_public(attributes: &Attributes<'_>) -> bool {
    !attributes.is_resource && attributes.verb == "get" && PUBLIC.iter().any(|p| is_under(attributes.path, p))
}

pub(crate) fn forbidden(a: &Attributes<'_>, reason: &str) -> ApiError {
    use machinery::field::quote;
    let user = quote(&a.user.name);
    let mut message = if !a.is_resource {
        format!("User {user} cannot {} path {}", a.verb, quote(a.path))
    } else {
        let resource = if a.subresource.is_empty() {
            a.resource.to_owned()
        } else {
            format!("{}/{}", a.resource, a.subresource)
        };
        let scope = if a.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", quote(a.namespace))
        };
        format!(
            "User {user} cannot {} resource {} in API group {} {scope}",
            a.verb,
            quote(&resource),
            quote(a.group)
        )
    };
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    let resource = if a.is_resource {
        GroupResource::new(a.group, a.resource)
    } else {
        GroupResource::new("", "")
    };
    ApiError::forbidden(&resource, a.name, message)
}

/// Whether the request says by a token whose it is.
fn has_bearer_token(request: &Request<Body>) -> bool {
    let header = request.headers().get(http::header::AUTHORIZATION);
    let text = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut words = text.split_whitespace();
    words
        .next()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer"))
        && words.next().is_some()
}

fn is_under(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Errors are said in the form the client takes, if it takes any we have.
fn error_output(request: &Request<Body>, query: &Query, features: Features) -> Output {
    let offer = negotiate::Offer {
        shapes: false,
        stream: false,
        protobuf: true,
        cbor: features.cbor,
    };
    negotiate::output(request.headers(), query, offer).unwrap_or(Output::JSON)
}

fn audit_id() -> HeaderValue {
    // A UUID is printable ASCII.
    HeaderValue::try_from(machinery::chance::uuid()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// 404 for a path nobody knows.
pub(crate) fn unknown_path() -> Response<Body> {
    respond::text(StatusCode::NOT_FOUND, "404 page not found\n")
}
