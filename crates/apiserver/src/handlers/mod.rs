//! What a request does, one file a verb or a family of subresources. All kinds take the same ways.

mod binding;
mod connect;
mod create;
mod delete;
mod eviction;
mod list;
mod patch;
pub(crate) mod resource_metrics;
mod reviews;
mod scale;
mod token;
mod update;
mod watch;

use crate::cache::Entry;
use crate::object::{DecodeContext, Form, Include};
use crate::registry::{Resource, Write, stored_error};
use crate::request::negotiate::{self, Offer};
use crate::request::query::WriteOptions;
use crate::request::{Encoding, Output, Query, RequestInfo, Verb};
use crate::routes::Endpoint;
use crate::server::Core;
use crate::{object, respond};
use access::admission::Notes;
use access::authorization::Attributes;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use machinery::gvk::GroupResource;
use machinery::schema::TypeId;
use machinery::status::ApiError;
use machinery::user::UserInfo;
use machinery::{Map, Value};
use std::sync::Arc;
use wire::body::{Body, ReadError};

/// The largest body upstream takes.
const MAX_BODY: usize = 3 * 1024 * 1024;

/// Resources upstream warns of.
const DEPRECATED: [(&str, &str, &str); 2] = [
    (
        "",
        "componentstatuses",
        "v1 ComponentStatus is deprecated in v1.19+",
    ),
    (
        "",
        "endpoints",
        "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    ),
];

/// A request, understood: what the handlers work on.
pub(crate) struct Exchange {
    pub core: Arc<Core>,
    pub info: RequestInfo,
    pub query: Query,
    pub user: Arc<UserInfo>,
    pub notes: Arc<Notes>,
    /// What audit is told of this request, if anything.
    pub record: Option<Arc<access::audit::Record>>,
    pub request: Request<Body>,
    /// Whether the object asked for has a protobuf form.
    pub protobuf: bool,
}

/// Answers a request to a resource.
pub(crate) async fn resource(exchange: Exchange) -> Result<Response<Body>, ApiError> {
    let info = &exchange.info;
    let Some(endpoint) = exchange
        .core
        .routes
        .endpoint(&info.group, &info.version, &info.resource)
    else {
        return Err(ApiError::not_found_path());
    };
    if endpoint.namespaced
        && info.namespace.is_empty()
        && !info.name.is_empty()
        && info.verb != Verb::List
        && info.verb != Verb::Watch
    {
        return Err(ApiError::not_found_path());
    }
    if let Some((_, _, warning)) = DEPRECATED
        .iter()
        .find(|(group, name, _)| *group == endpoint.group && *name == endpoint.name)
    {
        exchange.notes.warn(*warning);
    }
    if let Some(warning) = &endpoint.warning {
        exchange.notes.warn(warning.as_str());
    }
    let mut exchange = exchange;
    exchange.protobuf = endpoint.custom.is_none();
    let info = &exchange.info;
    if !info.subresource.is_empty() {
        return subresource(exchange, &endpoint).await;
    }
    // Listing over all namespaces is another verb's right, not another verb.
    if !endpoint.has_verb(info.verb.as_str()) {
        return Err(ApiError::method_not_allowed());
    }
    let Some(stored) = endpoint.resource.clone() else {
        if endpoint.group == resource_metrics::GROUP {
            exchange.protobuf = false;
            return resource_metrics::answer(exchange, &endpoint).await;
        }
        return reviews::answer(exchange, &endpoint).await;
    };
    if endpoint.namespaced && info.namespace.is_empty() && info.verb == Verb::Create {
        return Err(ApiError::method_not_allowed());
    }
    match info.verb {
        Verb::Get => get(exchange, &endpoint, &stored).await,
        Verb::List => list::list(exchange, &endpoint, &stored).await,
        Verb::Watch => watch::watch(exchange, &endpoint, &stored).await,
        Verb::Create => create::create(exchange, &endpoint, &stored).await,
        Verb::Update => update::update(exchange, &endpoint, &stored).await,
        Verb::Patch => patch::patch(exchange, &endpoint, &stored).await,
        Verb::Delete => delete::delete(exchange, &endpoint, &stored).await,
        Verb::DeleteCollection => delete::collection(exchange, &endpoint, &stored).await,
        Verb::Other(_) => Err(ApiError::method_not_allowed()),
    }
}

async fn subresource(exchange: Exchange, endpoint: &Arc<Endpoint>) -> Result<Response<Body>, ApiError> {
    let info = &exchange.info;
    let Some(sub) = endpoint.subresource(&info.subresource) else {
        return Err(ApiError::not_found_path());
    };
    // A proxy passes on what no verb stands for too.
    let passes = info.subresource == "proxy" && info.verb == Verb::Other("");
    if !passes && !sub.verbs.iter().any(|v| v == info.verb.as_str()) {
        return Err(ApiError::method_not_allowed());
    }
    let Some(stored) = endpoint.resource.clone() else {
        return Err(ApiError::not_found_path());
    };
    match info.subresource.as_str() {
        "scale" => scale::scale(exchange, endpoint, &stored).await,
        "binding" => binding::binding(exchange, endpoint, &stored).await,
        "eviction" => eviction::eviction(exchange, endpoint, &stored).await,
        "token" => token::token(exchange, &stored).await,
        "log" | "exec" | "attach" | "portforward" | "proxy" => {
            connect::connect(exchange, endpoint, &stored).await
        }
        _ => match info.verb {
            Verb::Get => get(exchange, endpoint, &stored).await,
            Verb::Update => update::update(exchange, endpoint, &stored).await,
            Verb::Patch => patch::patch(exchange, endpoint, &stored).await,
            _ => Err(ApiError::method_not_allowed()),
        },
    }
}

/// One object.
async fn get(
    exchange: Exchange,
    endpoint: &Endpoint,
    resource: &Arc<Resource>,
) -> Result<Response<Body>, ApiError> {
    let output = exchange.output(true, false)?;
    let version = crate::request::query::parse_resource_version(exchange.query.get("resourceVersion"))?;
    let registry = &exchange.core.registry;
    if let Some(version) = version.filter(|v| *v > 0) {
        registry.wait_for(version).await?;
    }
    let entry = registry
        .get(
            resource,
            &exchange.info.namespace,
            &exchange.info.name,
            version.is_some(),
        )
        .await?;
    resource.prepare(std::slice::from_ref(&entry)).await?;
    exchange.entry(StatusCode::OK, endpoint, resource, &entry, &output)
}

impl Exchange {
    pub(crate) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// How to answer.
    pub(crate) fn output(&self, shapes: bool, stream: bool) -> Result<Output, ApiError> {
        negotiate::output(
            self.headers(),
            &self.query,
            Offer {
                shapes,
                stream,
                protobuf: self.protobuf,
                cbor: self.core.features.cbor,
            },
        )
    }

    /// How the body is written; custom resources have no protobuf form.
    pub(crate) fn input(&self, protobuf: bool) -> Result<Encoding, ApiError> {
        negotiate::input(self.headers(), protobuf, self.core.features.cbor)
    }

    /// How to write, as the query says.
    pub(crate) fn write_options(&self, kind: &str) -> Result<WriteOptions, ApiError> {
        WriteOptions::parse(&self.query, kind)
    }

    /// The body, if it is not too large.
    pub(crate) async fn body(&mut self) -> Result<Bytes, ApiError> {
        let body = std::mem::take(self.request.body_mut());
        let read = body.limited(MAX_BODY).await.map_err(|error| match error {
            ReadError::TooLarge { limit } => {
                ApiError::too_large(format!("Request entity too large: limit is {limit}"))
            }
            ReadError::Io(error) => ApiError::bad_request(format!("reading the body: {error}")),
        });
        if let (Some(record), Ok(bytes)) = (&self.record, &read) {
            crate::audit::sent(record, self.headers(), bytes);
        }
        read
    }

    /// The form an answer takes.
    pub(crate) fn form(&self, endpoint: &Endpoint, output: &Output) -> Result<Form, ApiError> {
        let include = match self.query.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "unrecognized includeObject value: {other:?}"
                )));
            }
        };
        Ok(Form {
            encoding: output.encoding,
            shape: output.shape,
            version: endpoint.index,
            include,
        })
    }

    /// Answers with an entry's object.
    pub(crate) fn entry(
        &self,
        code: StatusCode,
        endpoint: &Endpoint,
        resource: &Resource,
        entry: &Entry,
        output: &Output,
    ) -> Result<Response<Body>, ApiError> {
        let form = self.form(endpoint, output)?;
        if output.pretty || !form.is_lasting() {
            let object = entry.value(resource).map_err(stored_error)?;
            let object = object::shaped(resource, object, form, self.core.registry.clock.now());
            let (types, ty) = object::shape_type(resource, form);
            let bytes = object::encode_value(&object, output.encoding, types, ty, output.pretty)
                .map_err(stored_error)?;
            return Ok(respond::document(code, output, bytes));
        }
        Ok(respond::document(
            code,
            output,
            entry.encoded(resource, form).map_err(stored_error)?,
        ))
    }

    /// The options of a write as the object admission is shown.
    pub(crate) fn options_object(&self, kind: &str, options: &WriteOptions) -> Value {
        let mut object = Map::new();
        object.insert("apiVersion", "meta.k8s.io/v1");
        object.insert("kind", kind);
        if options.dry_run {
            object.insert("dryRun", vec!["All"]);
        }
        if !options.field_manager.is_empty() {
            object.insert("fieldManager", options.field_manager.as_str());
        }
        if let Some(validation) = self.query.get("fieldValidation") {
            object.insert("fieldValidation", validation);
        }
        if let Some(force) = options.force {
            object.insert("force", force);
        }
        object.into()
    }

    /// What a write is told, but for the options.
    pub(crate) fn write<'a>(
        &'a self,
        endpoint: &Endpoint,
        resource: &'a Arc<Resource>,
        options: &WriteOptions,
        options_object: &'a Value,
        manager: &'a str,
    ) -> Write<'a> {
        Write {
            resource,
            version: endpoint.index,
            subresource: &self.info.subresource,
            namespace: if resource.info.namespaced {
                &self.info.namespace
            } else {
                ""
            },
            name: &self.info.name,
            user: &self.user,
            dry_run: options.dry_run,
            manager,
            options: options_object,
            notes: &self.notes,
        }
    }

    /// Decodes a body that is an object of the endpoint's kind into the storage version, with all defaults.
    pub(crate) fn decode_object(
        &self,
        endpoint: &Endpoint,
        resource: &Resource,
        bytes: &[u8],
        encoding: Encoding,
        options: &WriteOptions,
    ) -> Result<Value, ApiError> {
        let context = DecodeContext {
            types: &resource.types,
            ty: resource.versions[endpoint.index].ty,
            gvk: &endpoint.kind,
            validation: options.field_validation,
            notes: &self.notes,
            defaults: true,
        };
        let object = object::decode_body(bytes, encoding, &context)?;
        let mut object = object::convert(resource, object, resource.storage);
        resource.strategy.default(&mut object);
        Ok(object)
    }

    /// Decodes a body of a built-in kind that is not the endpoint's own.
    pub(crate) async fn decode_other(
        &mut self,
        gvk: &machinery::gvk::GroupVersionKind,
        options: &WriteOptions,
    ) -> Result<(Value, TypeId), ApiError> {
        let encoding = self.input(true)?;
        let bytes = self.body().await?;
        let Some(ty) = api::kind(gvk) else {
            return Err(ApiError::internal(format!("no table for {gvk}")));
        };
        let context = DecodeContext {
            types: api::types(),
            ty,
            gvk,
            validation: options.field_validation,
            notes: &self.notes,
            defaults: true,
        };
        Ok((object::decode_body(&bytes, encoding, &context)?, ty))
    }

    /// Whether the user may do something else on the way.
    pub(crate) async fn authorize(&self, verb: &str) -> Result<(), ApiError> {
        let attributes = Attributes {
            verb,
            ..attributes(&self.info, &self.user, &self.query)
        };
        crate::filters::authorize(&self.core, &attributes).await
    }
}

#[async_trait::async_trait]
impl crate::registry::update::MayCreate for Exchange {
    async fn may_create(&self) -> Result<(), ApiError> {
        self.authorize("create").await
    }
}

/// The attributes of a request.
pub(crate) fn attributes<'a>(info: &'a RequestInfo, user: &'a UserInfo, query: &'a Query) -> Attributes<'a> {
    let selects = matches!(info.verb, Verb::List | Verb::Watch | Verb::DeleteCollection);
    Attributes {
        user,
        verb: info.verb.as_str(),
        namespace: &info.namespace,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        name: &info.name,
        is_resource: info.is_resource,
        path: &info.path,
        label_selector: query.get("labelSelector").filter(|_| selects),
        field_selector: query.get("fieldSelector").filter(|_| selects),
    }
}

/// `pods` of the core group and such, for errors of what is no endpoint.
pub(crate) fn core_resource(name: &str) -> GroupResource {
    GroupResource::new("", name)
}
