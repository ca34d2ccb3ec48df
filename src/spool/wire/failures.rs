//! An answer file from outside: how many requests it answers, and how many of them failed.

use std::io::Read;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// An answer file, of which only the faults matter.
#[derive(Deserialize)]
struct Outcome {
    error: Option<IgnoredAny>,
    responses: Vec<Response>,
}

/// An entry of it, or a line of the answer to a batch file.
#[derive(Deserialize)]
struct Response {
    error: Option<IgnoredAny>,
}

/// Requests, and how many of them failed; a file that was rejected counts as a failure.
///
/// # Errors
/// The text is no answer.
pub fn count_failures(answer: impl Read, is_of_lines: bool) -> serde_json::Result<(usize, usize)> {
    let is_failed = |response: &Response| usize::from(response.error.is_some());
    if is_of_lines {
        let lines = serde_json::Deserializer::from_reader(answer).into_iter::<Response>();
        return lines
            .into_iter()
            .try_fold((0, 0), |(n, n_failed), line| Ok((n + 1, n_failed + is_failed(&line?))));
    }
    let Outcome { error, responses } = serde_json::from_reader(answer)?;
    let n_failed: usize = responses.iter().map(is_failed).sum();
    Ok((responses.len(), n_failed.max(usize::from(error.is_some()))))
}

#[cfg(test)]
mod tests {
    use super::count_failures;

    #[test]
    fn failures_of_requests_and_of_files_count() {
        let cases = [
            (r#"{"responses": []}"#, false, (0, 0)),
            (r#"{"responses": [{"error": null}, {"error": {"code": "x"}}, {}]}"#, false, (3, 1)),
            (r#"{"error": {"code": "x"}, "responses": []}"#, false, (0, 1)),
            ("{\"error\": null}\n{\"error\": {}}\n", true, (2, 1)),
            ("", true, (0, 0)),
        ];
        for (answer, is_of_lines, wanted) in cases {
            assert_eq!(count_failures(answer.as_bytes(), is_of_lines).unwrap(), wanted, "{answer}");
        }
        assert!(count_failures(&b"{"[..], false).is_err() && count_failures(&b"{"[..], true).is_err());
    }
}
