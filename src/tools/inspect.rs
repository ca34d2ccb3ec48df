//! stub
use super::ToolError;
use std::path::Path;
pub fn inspect(_path: &Path) -> Result<String, ToolError> {
    Ok(String::new())
}
