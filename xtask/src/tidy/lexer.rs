//! Just enough of Rust's lexical grammar to tell code from comments and literals.

/// `source` with comments and the contents of string and character literals blanked out; line breaks stay.
pub fn code_only(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = comment_length(rest).or_else(|| string_length(rest, &out)).or_else(|| char_length(rest));
        match skipped {
            Some(length) => {
                out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                rest = &rest[length..];
            }
            None => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    out
}

fn comment_length(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0usize, 0usize);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += 1;
        }
    }
    Some(text.len())
}

fn string_length(text: &str, before: &str) -> Option<usize> {
    let in_word = before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = ["br", "cr", "b", "c", "r", ""].iter().find(|prefix| {
        let after = text.strip_prefix(**prefix).unwrap_or_default().trim_start_matches('#');
        after.starts_with('"') && (prefix.contains('r') || text[prefix.len()..].starts_with('"'))
    })?;
    if in_word && !prefix.is_empty() {
        return None;
    }
    let body = &text[prefix.len()..];
    if prefix.contains('r') {
        let hashes = body.chars().take_while(|&c| c == '#').count();
        let close = format!("\"{}", "#".repeat(hashes));
        let start = prefix.len() + hashes + 1;
        return Some(text[start..].find(&close).map_or(text.len(), |at| start + at + close.len()));
    }
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix.len() + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// A character literal; a lifetime such as `'a` is none.
fn char_length(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let first = body.chars().next()?;
    if first == '\\' {
        let close = body[2..].find('\'')?;
        return Some(1 + 2 + close + 1);
    }
    body[first.len_utf8()..].starts_with('\'').then(|| 1 + first.len_utf8() + 1)
}

/// Identifiers and keywords with their one-based line, in order; other characters separate them.
pub fn words(code: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        words.extend(line.split(|c| !is_word(c)).filter(|word| !word.is_empty()).map(|word| (number + 1, word)));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_vanish_and_lines_stay() {
        let source = "let a = \"unsafe \\\" x\"; // unsafe\n/* unsafe /* y */ */ let b = r#\"unsafe \" \"#; let c = '\\''; let d: &'a u8 = b'u';\n";
        let code = code_only(source);
        assert!(!code.contains("unsafe"));
        assert_eq!(code.matches('\n').count(), 2);
        assert!(code.contains("let b") && code.contains("&'a u8"));
    }

    #[test]
    fn code_after_an_escaped_quote_is_kept() {
        assert!(code_only("let c = '\\''; unsafe {}").contains("unsafe"));
        assert!(code_only("f(\"\\\\\"); unsafe {}").contains("unsafe"));
    }

    #[test]
    fn words_carry_their_lines() {
        assert_eq!(words("fn a_b()\n{ x }"), vec![(1, "fn"), (1, "a_b"), (2, "x")]);
    }
}
