//! Type-erased operations, from which routes, tools and documents are built.
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{
    context::Context, definition::Operation, execute::execute, meta::Meta, reply::Reply,
    request::Call, resource::McpResource, schema,
};
use crate::{
    access::policy::{KnownOperation, KnownOperations},
    values::Result,
};

/// The operations in the order in which they are documented, and the MCP resources.
#[derive(Clone, Default)]
pub struct Operations {
    list: Vec<Arc<Registered>>,
    resources: Vec<Arc<McpResource>>,
}

/// One operation without its types.
pub struct Registered {
    /// Name, category, routes.
    pub meta: Meta,
    /// JSON Schema of the input: what the documents say and what is checked.
    pub input: Value,
    /// JSON Schema of the answer.
    pub output: Value,
    /// A valid input.
    pub example: Value,
    /// Executes the operation on an input that its schema accepts.
    pub(crate) execute: for<'a> fn(&'a Call<'a>, &'a Value) -> BoxFuture<'a, Result<Reply>>,
    /// Gives back what a cancelled request has taken.
    pub(crate) give_back: for<'a> fn(&'a Value, Context<'a>) -> BoxFuture<'a, Result<()>>,
}

impl Operations {
    /// Adds an operation.
    ///
    /// # Panics
    /// When its schema uses a keyword that the input check does not understand: the schema would promise
    /// what nothing enforces.
    pub fn with<O: Operation>(mut self) -> Self {
        self.list.push(Arc::new(Registered {
            meta: O::META,
            input: schema::of_input::<O>(&O::META),
            output: schema::of_output::<O>(),
            example: O::example(),
            execute: |call, input| Box::pin(execute::<O>(call, input)),
            give_back: O::give_back,
        }));
        self
    }

    /// Adds an MCP resource.
    pub fn resource(mut self, resource: McpResource) -> Self {
        self.resources.push(Arc::new(resource));
        self
    }

    /// Iterates over the operations in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Registered>> {
        self.list.iter()
    }

    /// Iterates over the MCP resources in order.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<McpResource>> {
        self.resources.iter()
    }

    /// Returns the names that policies know.
    pub fn known(&self) -> KnownOperations {
        KnownOperations::new(self.list.iter().map(|operation| {
            let Meta { name, category, target_kind, .. } = operation.meta;
            (name, KnownOperation { category, target_kind })
        }))
    }
}

impl Registered {
    /// Returns what the operation does and when to use it.
    pub fn description(&self) -> &str {
        self.input["description"].as_str().unwrap_or_default()
    }

    /// Returns the first sentence of the description.
    pub fn summary(&self) -> &str {
        let description = self.description();
        description.split_inclusive(". ").next().unwrap_or_default().trim_end()
    }

    /// Whether the input has a member of this name.
    pub(crate) fn has_field(&self, name: &str) -> bool {
        self.input["properties"].get(name).is_some()
    }

    /// Iterates over the members of the input with their schemas, in the order of declaration.
    pub fn fields(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.input["properties"].as_object().into_iter().flatten()
    }
}
