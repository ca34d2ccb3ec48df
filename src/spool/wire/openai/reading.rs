//! One line of a batch file: `{"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {…}}`. What is
//! wrong with a line is the answer to this line alone.

use std::sync::Arc;

use super::body::read_body;
use super::line::{Endpoint, Line};
use crate::spool::wire::echo::Echo;
use crate::spool::wire::fault::Fault;
use crate::spool::wire::json::Value;
use crate::spool::wire::limits;
use crate::spool::wire::object::{At, Object};
use crate::spool::wire::request::{BadRequest, Request};

/// Reads a line. `is_repeated` says that its custom_id stands in a line before it.
pub fn read_line(text: &str, mut line: Line, is_repeated: bool) -> Result<Request, BadRequest> {
    let mut read = || -> Result<Request, Fault> {
        let root = Value::parse(text)?;
        let object = Object::read(root, &At::Root, &["custom_id", "method", "url", "body"])?;
        let custom_id = object.get("custom_id").ok_or_else(|| object.missing("custom_id", "a string"))?;
        custom_id.string_within(limits::ID_BYTES)?;
        line.custom_id = Echo::new(custom_id.value.text()).ok();
        if is_repeated {
            return Err(Fault::bad("custom_id: stands in a line before this one; wanted one of its own"));
        }
        if let Some(method) = object.get("method")
            && !method.string()?.eq_ignore_ascii_case("post")
        {
            return Err(method.wanted("\"POST\""));
        }
        let url = object.get("url").ok_or_else(|| object.missing("url", "\"/v1/chat/completions\""))?;
        let name = url.string()?;
        let endpoint = Endpoint::ALL.iter().find(|(known, _)| *known == name).map(|(_, endpoint)| *endpoint);
        line.endpoint =
            endpoint.ok_or_else(|| url.wanted("\"/v1/chat/completions\" or \"/v1/completions\""))?;
        let body = object.get("body").ok_or_else(|| object.missing("body", "an object"))?;
        let mut warnings = Vec::new();
        object.warn_unknown(&mut warnings);
        read_body(body, &mut line, warnings)
    };
    match read() {
        Ok(request) => Ok(Request { line: Some(Arc::new(line)), ..request }),
        Err(fault) => Err(BadRequest { line: Some(Arc::new(line)), ..BadRequest::new(fault) }),
    }
}
