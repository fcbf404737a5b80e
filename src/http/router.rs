//! The router: layers, and the dispatch of requests to their routes.
use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Request, State},
    middleware::from_fn_with_state,
    response::Response,
    routing::MethodRouter,
};

use super::{
    cors::cors,
    middleware::with_request_scope,
    operations::answer_operation,
    pages::{Documents, answer_page},
    respond::{method_not_allowed, redirect, respond},
    routes::{Handler, MCP_PATH, Match, Routes},
};
use crate::{
    operation::{Operations, RequestInfo, Services},
    values::Error,
};

/// What the routes share. Built once, at start.
struct RouterState {
    services: Arc<Services>,
    routes: Routes,
    documents: Documents,
}

/// Builds the router over all operations, with the MCP endpoint that answers at its path.
pub(crate) fn router(
    services: Arc<Services>,
    operations: &Operations,
    mcp_endpoint: MethodRouter,
) -> Router {
    let state = RouterState {
        services: services.clone(),
        routes: Routes::new(operations),
        documents: Documents::new(operations),
    };
    Router::new()
        .fallback(dispatch)
        .layer(from_fn_with_state(services.clone(), with_request_scope))
        .layer(cors(&services.config))
        .with_state(Arc::new(state))
        .route(MCP_PATH, mcp_endpoint)
}

/// Answers a request by the route that it matches.
async fn dispatch(
    State(state): State<Arc<RouterState>>,
    Extension(info): Extension<RequestInfo>,
    request: Request,
) -> Response {
    let RouterState { services, routes, documents } = &*state;
    let (parts, body) = request.into_parts();
    match routes.find(&parts.method, parts.uri.path()) {
        Match::Route(route, parameters) => match &route.handler {
            Handler::Operation(operation) => {
                answer_operation(services, operation, &parameters, &info, &parts, body).await
            }
            Handler::Page(page) => {
                answer_page(services, documents, *page, route.template, &info, &parts.headers).await
            }
        },
        Match::OtherMethod(allowed) => method_not_allowed(allowed),
        Match::Redirect(path) => redirect(path, parts.uri.query()),
        Match::Nothing => respond(&Error::NotFound("Not Found".to_owned()), &info.id),
    }
}
