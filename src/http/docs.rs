//! Documents for people, written from the registered operations: the page at `/docs` and the table
//! of operations.
use std::fmt::Write as _;

use serde_json::Value;

use super::routes::PAGES;
use crate::{
    access::Category,
    capabilities,
    operation::{Operations, Registered, input::keywords::required},
    values::VERSION,
};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem;color-scheme:light dark}code,pre{font-family:ui-monospace,monospace;font-size:.9em}\
pre{padding:.75rem;overflow:auto;border:1px solid #8884;border-radius:.4rem}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;\
padding:.3rem .6rem;border-bottom:1px solid #8884}h2{margin-top:2.5rem}nav a{margin-right:1rem}";

/// The page at `/docs`: one document without scripts or anything fetched from elsewhere.
pub(crate) fn page(operations: &Operations) -> String {
    let mut body = String::new();
    for op in operations.iter() {
        section(&mut body, op);
    }
    let links: String =
        operations.iter().map(|op| format!("<a href=\"#{0}\">{0}</a> ", op.meta.id)).collect();
    let pages: String = PAGES
        .iter()
        .map(|(path, summary, _)| format!("<tr><td><code>GET {path}</code><td>{summary}"))
        .collect();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>agent-coordinator</title>\
<style>{STYLE}</style><h1>agent-coordinator {version}</h1>\
<p>Send a key as <code>Authorization: Bearer …</code>, <code>X-Coordinator-API-Key</code> or \
<code>X-API-Key</code>. A business refusal is status 200 with <code>success: false</code> and a \
reason; 403 is a denial, 422 lists every problem of the input. The machine-readable form of this \
page is <a href=\"/openapi.json\">/openapi.json</a>.</p>\
<nav>{links}</nav>{body}<h2>Without a key</h2><table>{pages}</table></html>\n",
        version = VERSION,
    )
}

fn section(body: &mut String, op: &Registered) {
    let routes = op.meta.routes.iter().map(|it| it.replace("{*", "{"));
    let mut reached: Vec<_> = routes.map(|it| format!("<code>{}</code>", escape(&it))).collect();
    reached.extend(op.meta.tool.map(|tool| format!("MCP tool <code>{}</code>", tool.name)));
    let mut fields = String::new();
    for (name, schema) in op.fields() {
        let required = if required(&op.input, name) { "required" } else { "" };
        let description = schema["description"].as_str().unwrap_or_default();
        write!(
            fields,
            "<tr><td><code>{}</code><td>{}<td>{required}<td>{}",
            escape(name),
            escape(&type_of(schema)),
            escape(description),
        )
        .expect("a String takes any text");
    }
    if !fields.is_empty() {
        fields = format!("<table><tr><th>Field<th>Type<th><th>Meaning{fields}</table>");
    }
    let example = serde_json::to_string_pretty(&op.example).unwrap_or_default();
    write!(
        body,
        "<h2 id=\"{id}\">{id}</h2><p>{reached} · needs {category}{open}</p>\
<p>{description}</p>{fields}<pre>{example}</pre>",
        id = op.meta.id,
        reached = reached.join(" · "),
        category = tier(op.meta.category),
        open = if op.meta.open { " · no key where public reads are on" } else { "" },
        description = escape(op.description()).replace("\n\n", "</p><p>"),
        example = escape(&example),
    )
    .expect("a String takes any text");
}

fn tier(category: Category) -> &'static str {
    match category {
        Category::Read => "trust 1 (read)",
        Category::Write => "trust 2 (write)",
        Category::Admin => "trust 3 (admin)",
    }
}

fn type_of(schema: &Value) -> String {
    let names = match &schema["type"] {
        Value::String(only) => only.clone(),
        Value::Array(several) => {
            let names: Vec<_> = several.iter().filter_map(Value::as_str).collect();
            names.join(" or ")
        }
        _ => "any".to_owned(),
    };
    match &schema["default"] {
        Value::Null => names,
        default => format!("{names}, default {default}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The table of operations, as Markdown.
pub fn operations_table() -> String {
    let mut table = String::from(
        "# Operations\n\n\
         Written by `make docs`; `/docs` of a running service has the fields of each.\n\n\
         | Operation | Routes | MCP tool | Needs | Without a key | What it does |\n\
         |---|---|---|---|---|---|\n",
    );
    for op in capabilities::all().iter() {
        let routes: Vec<_> =
            op.meta.routes.iter().map(|it| format!("`{}`", it.replace("{*", "{"))).collect();
        let tool = op.meta.tool.map(|tool| format!("`{}`", tool.name));
        let or_dash = |text: String| if text.is_empty() { "–".to_owned() } else { text };
        writeln!(
            table,
            "| `{}` | {} | {} | {} | {} | {} |",
            op.meta.name,
            or_dash(routes.join(" · ")),
            or_dash(tool.unwrap_or_default()),
            tier(op.meta.category),
            if op.meta.open { "where public reads are on" } else { "–" },
            op.summary(),
        )
        .expect("a String takes any text");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_operation_and_fetches_nothing() {
        let page = page(&capabilities::all());
        for op in capabilities::all().iter() {
            assert!(page.contains(&format!("<h2 id=\"{}\">", op.meta.id)), "{}", op.meta.id);
        }
        for foreign in ["http:", "https:", "<script", "src=", "url(", "<link"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}
