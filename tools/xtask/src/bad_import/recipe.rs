//! Recipes of `ccq-convert`, which this command cannot ask: what it says is written here, and its tests hold it to that.

use anyhow::{Context, Result};

use super::{Case, open};

/// Name, error, text with a `@` before the byte that the error is about, message after the name.
type Recipe = (&'static str, &'static str, Vec<u8>, &'static str);

pub fn cases() -> Result<Vec<Case>> {
    [texts(), options(), rules()].into_iter().flatten().map(case).collect()
}

fn case((name, expected, marked, message): Recipe) -> Result<Case> {
    let at = marked.iter().position(|&byte| byte == b'@').with_context(|| format!("{name} has no @"))?;
    let text = [&marked[..at], &marked[at + 1..]].concat();
    let converter = Some((at, message.into()));
    Ok(Case { phase: "recipe", converter, ..open(&format!("recipe-{name}.toml"), expected, text) })
}

fn texts() -> Vec<Recipe> {
    vec![
        ("cut", "Syntax", b"[default@".into(), ":1: unclosed table, expected `]`"),
        ("not-utf8", "NotUtf8", b"[default]\n# @\xFF".into(), ":2: not UTF-8, as TOML is; save it as UTF-8"),
        ("nul", "Syntax", b"[default]\n\0@".into(), ":2: key with no value, expected `=`"),
        (
            "deep",
            "Syntax",
            ("rule = ".to_owned() + &"[".repeat(80) + "@" + &"[".repeat(3920)).into(),
            ":1: cannot recurse further; max recursion depth met",
        ),
        (
            "key-twice",
            "Syntax",
            b"[default]\nquality = \"fast\"\n@quality = \"best\"".into(),
            ":3: duplicate key",
        ),
        ("table-twice", "Syntax", b"[default]\n[@default]".into(), ":2: duplicate key"),
    ]
}

fn options() -> Vec<Recipe> {
    let default = |text: &str| format!("[default]\n{text}\n").into_bytes();
    vec![
        (
            "unknown-table",
            "UnknownKey",
            b"[@defaults]".into(),
            r#":1: unknown key "defaults", did you mean "default"?; expected default, rule"#,
        ),
        (
            "unknown-key",
            "UnknownKey",
            default("@tensor = \"a\""),
            r#":2: unknown key "tensor"; expected encoding, group-size, quality, method"#,
        ),
        ("default-number", "Type", b"default = @3".into(), ":1: default is an integer, expected a table"),
        ("rule-number", "Type", b"rule = @3".into(), ":1: rule is an integer, expected [[rule]] tables"),
        (
            "encoding-unknown",
            "Value",
            default("encoding = @\"wint5\""),
            r#":2: encoding "wint5", did you mean "wint4"?; expected ccq-2.06, ccq-2.5, ccq-2.75, ccq-3.31, ccq-5.5, wint4, wint8, int2, raw, auto"#,
        ),
        ("encoding-number", "Type", default("encoding = @4"), ":2: encoding is an integer, expected a text"),
        (
            "encoding-auto",
            "NoTarget",
            b"@[default]\nencoding = \"auto\"\n".into(),
            r#":1: encoding "auto" needs a budget: give --target-bpw or --target-size"#,
        ),
        (
            "quality-unknown",
            "Value",
            default("quality = @\"bset\""),
            r#":2: quality "bset", did you mean "best"?; expected fast, balanced, best"#,
        ),
        (
            "group-size",
            "Value",
            default("group-size = @48"),
            r#":2: group-size "48"; expected 32, 64, 128 or "channel""#,
        ),
        (
            "group-size-huge",
            "Value",
            default("group-size = @18446744073709551616"),
            r#":2: group-size "18446744073709551616"; expected 32, 64, 128 or "channel""#,
        ),
        (
            "group-size-fraction",
            "Type",
            default("group-size = @64.0"),
            r#":2: group-size is float, expected 32, 64, 128 or "channel""#,
        ),
        (
            "group-size-of-rows",
            "GroupSize",
            b"default = @{ encoding = \"ccq-2.06\", group-size = \"channel\" }".into(),
            ":1: ccq-2.06 takes group sizes 32, 64 and 128; one scale a channel is for wint4, wint8, int2",
        ),
        (
            "group-size-of-raw",
            "Idle",
            b"default = @{ encoding = \"raw\", group-size = 64 }".into(),
            r#":1: group-size does not go with encoding "raw""#,
        ),
    ]
}

fn rules() -> Vec<Recipe> {
    let rule = |text: &str| format!("[[rule]]\nencoding = \"raw\"\n{text}\n").into_bytes();
    vec![
        (
            "no-encoding",
            "NoEncoding",
            b"@[[rule]]\ntensor = \"*\"\n".into(),
            ":1, rule 1: the rule has no encoding",
        ),
        (
            "no-selector",
            "NoSelector",
            b"@[[rule]]\nencoding = \"raw\"\n".into(),
            ":1, rule 1: the rule names no tensors: give tensor, regex or layers; [default] is for all that no rule names",
        ),
        (
            "rule-key",
            "UnknownKey",
            rule("@tensr = \"a\""),
            r#":3, rule 1: unknown key "tensr", did you mean "tensor"?; expected tensor, regex, layers, role, encoding, group-size, quality, method, optional"#,
        ),
        (
            "tensor-number",
            "Type",
            rule("tensor = [\"a\", @1]"),
            ":3, rule 1: tensor is an integer, expected a text, or an array of texts",
        ),
        (
            "tensor-none",
            "Type",
            rule("tensor = @[]"),
            ":3, rule 1: tensor is an array, expected a text, or an array of texts",
        ),
        (
            "regex",
            "Value",
            rule("regex = @\"(\""),
            r#":3, rule 1: regex "("; expected a regular expression (found open group without closing ')')"#,
        ),
        (
            "regex-huge",
            "Value",
            rule("regex = @\"a{1000}{1000}{1000}\""),
            r#":3, rule 1: regex "a{1000}{1000}{1000}"; expected a regular expression (compiled regex exceeded size limit)"#,
        ),
        (
            "layers-backwards",
            "Value",
            rule("layers = @\"6-3\""),
            r#":3, rule 1: layers "6-3"; expected layers and ranges of them, such as "0-6, 10, 40-""#,
        ),
        (
            "layers-huge",
            "Value",
            rule("layers = @\"18446744073709551616\""),
            r#":3, rule 1: layers "18446744073709551616"; expected layers and ranges of them, such as "0-6, 10, 40-""#,
        ),
        (
            "role-unknown",
            "Value",
            rule("role = @\"head\""),
            r#":3, rule 1: role "head"; expected projection, embedding, output-head, norm, bias, router, convolution, buffer, quantization-parameter, recurrence, other, any"#,
        ),
        (
            "optional-number",
            "Type",
            rule("tensor = \"*\"\noptional = @1"),
            ":4, rule 1: optional is an integer, expected true or false",
        ),
    ]
}
