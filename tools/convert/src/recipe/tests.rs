//! Recipes as text, as decisions, and as faults.

use ccq::format::{Dtype, Encoding};

use super::*;

fn load(text: &str) -> Result<Recipe, RecipeError> {
    read::read("mix.toml", text, &Wish::default())
}

fn decide(recipe: &Recipe, name: &str, shape: &[u64]) -> (String, String) {
    let (how, reason) = recipe.find(&Facts::new(name, shape));
    match how {
        How::Quantize(search) => {
            let decision = Decision::quantize(search, reason, shape, Dtype::Bf16);
            (decision.encoding().to_string(), decision.reason.to_string())
        }
        How::Raw => (Encoding::Raw.to_string(), reason.to_string()),
        How::Choose { .. } => ("auto".into(), reason.to_string()),
    }
}

const MIX: &str = r#"
[default]
encoding = "wint8"
quality = "fast"

[[rule]]
tensor = ["*.experts.*", "*_exps.*"]
layers = "0-6"
encoding = "wint4"
group-size = "channel"

[[rule]]
regex = '\.experts\.|_exps\.'
encoding = "ccq-2.06"
quality = "best"

[[rule]]
tensor = "lm_head.weight"
role = "output-head"
encoding = "wint4"
group-size = 128

[[rule]]
layers = 9
encoding = "keep"
"#;

#[test]
fn the_first_rule_decides() {
    let recipe = load(MIX).unwrap();
    let matrix = &[256, 256][..];
    for (name, shape, encoding, reason) in [
        ("model.layers.6.mlp.experts.3.up_proj.weight", matrix, "wint4 per channel", "rule 1"),
        ("model.layers.7.mlp.experts.3.up_proj.weight", matrix, "ccq-2.06", "rule 2"),
        ("model.layers.9.mlp.experts.3.up_proj.weight", matrix, "ccq-2.06", "rule 2"),
        ("blk.3.ffn_up_exps.weight", &[4, 256, 256], "wint4 per channel", "rule 1"),
        ("model.layers.7.self_attn.q_proj.weight", matrix, "wint8", "projection"),
        ("model.layers.9.self_attn.q_proj.weight", matrix, "raw", "rule 4: layers 9"),
        // A rule speaks of projections unless it says otherwise.
        ("model.layers.3.mlp.experts.gate.weight", &[64, 256], "raw", "router"),
        ("model.layers.3.mlp.shared_experts.up_proj.weight", matrix, "wint8", "projection"),
        ("lm_head.weight", matrix, "wint4 g128", "rule 3: \"lm_head.weight\", role output-head"),
        ("model.embed_tokens.weight", matrix, "raw", "embedding"),
        ("model.norm.weight", &[256], "raw", "norm"),
    ] {
        let found = decide(&recipe, name, shape);
        assert_eq!(found.0, encoding, "{name}");
        assert!(found.1.starts_with(reason), "{name}: {}", found.1);
    }
    let qualities: Vec<_> = recipe.rules.iter().map(|rule| rule.how).map(quality).collect();
    assert_eq!(qualities, [Some(Quality::Fast), Some(Quality::Best), Some(Quality::Fast), None]);
}

fn quality(how: How) -> Option<Quality> {
    match how {
        How::Quantize(search) => Some(search.quality),
        _ => None,
    }
}

#[test]
fn options_come_before_the_file() {
    let wish = Wish {
        encoding: Some(Some(Family::Ccq275)),
        group_size: Some(32),
        quality: Some(Quality::Best),
        keep: vec!["*.3.*".into()],
        quantize: vec!["*embed*".into(), "*.3.*".into()],
        ..Wish::default()
    };
    let recipe = read::read("mix.toml", MIX, &wish).unwrap();
    let matrix = &[256, 256];
    for (name, encoding, reason) in [
        ("model.layers.3.mlp.experts.0.up_proj.weight", "raw", "--keep *.3.*"),
        ("model.embed_tokens.weight", "ccq-2.75 g32", "--quantize *embed*"),
        ("model.layers.4.mlp.up_proj.weight", "ccq-2.75 g32", "projection"),
        ("blk.4.ffn_up_exps.weight", "wint4 per channel", "rule 1"),
    ] {
        let found = decide(&recipe, name, matrix);
        assert!(found.0 == encoding && found.1.starts_with(reason), "{name}: {found:?}");
    }
    // The option is for what says nothing itself.
    assert_eq!(quality(recipe.rules[3].how), Some(Quality::Best), "a rule without a quality");
}

#[test]
fn what_is_written_decides_the_same() {
    let names =
        ["model.layers.6.mlp.experts.3.up.weight", "blk.30.up_exps.weight", "lm_head.weight", "a.9.b"];
    let presets = Preset::ALL.map(|preset| preset.text);
    for text in presets.into_iter().chain([MIX, "", "default.encoding = \"raw\""]) {
        for wish in [
            Wish::default(),
            Wish { keep: vec!["a\"'\\.*".into()], quality: Some(Quality::Best), ..Wish::default() },
            Wish { method: Some(Method::Paper), ..Wish::default() },
        ] {
            let Ok(recipe) = read::read("mix.toml", text, &wish) else {
                assert!(text == MIX && wish.method.is_some(), "{text}");
                continue;
            };
            let written = recipe.to_toml();
            let again = load(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
            assert_eq!(written, again.to_toml());
            for name in names {
                assert_eq!(decide(&recipe, name, &[256, 256]).0, decide(&again, name, &[256, 256]).0);
            }
        }
    }
    let expected = "[default]\nencoding = \"ccq-2.06\"\ngroup-size = 64\nquality = \"balanced\"\n";
    assert_eq!(load("").unwrap().to_toml(), expected);
}

#[test]
fn faults_have_a_place_and_a_remedy() {
    let rule = |text: &str| format!("\n[[rule]]\ntensor = \"*\"\n{text}");
    for (text, said) in [
        ("[default".to_owned(), "mix.toml:1: unclosed table, expected `]`"),
        ("a = 1\na = 2".into(), "mix.toml:2: duplicate key"),
        (
            "\n[defaults]".into(),
            "mix.toml:2: unknown key \"defaults\", did you mean \"default\"?; expected default, rule",
        ),
        (
            rule("encodng = \"raw\""),
            "mix.toml:4, rule 1: unknown key \"encodng\", did you mean \"encoding\"?",
        ),
        (rule("tensr = \"a\""), "did you mean \"tensor\"?"),
        (
            rule("foo = 1"),
            "mix.toml:4, rule 1: unknown key \"foo\"; expected tensor, regex, layers, role, encoding",
        ),
        (rule("encoding = \"wint5\""), "mix.toml:4, rule 1: encoding \"wint5\", did you mean \"wint4\"?"),
        (rule("encoding = 4"), "mix.toml:4, rule 1: encoding is an integer, expected a text"),
        (rule("encoding = \"raw\"\ngroup-size = 64"), "group-size does not go with encoding \"raw\""),
        (rule("encoding = \"raw\"\nquality = \"best\""), "quality does not go with encoding \"raw\""),
        (rule("encoding = \"int2\"\nquality = \"bset\""), "quality \"bset\", did you mean \"best\"?"),
        (
            rule("encoding = \"int2\"\nmethod = \"paper\"\nquality = \"best\""),
            "quality does not go with method",
        ),
        (
            rule("encoding = \"wint4\"\ngroup-size = 48"),
            "group-size \"48\"; expected 32, 64, 128 or \"channel\"",
        ),
        (rule("encoding = \"wint4\"\ngroup-size = 64.0"), "group-size is float"),
        (
            rule("encoding = \"ccq-2.06\"\ngroup-size = \"channel\""),
            "mix.toml:2, rule 1: ccq-2.06 takes group sizes 32, 64 and 128; one scale a channel is for wint4",
        ),
        (
            rule("encoding = \"auto\""),
            "mix.toml:2, rule 1: encoding \"auto\" needs a budget: give --target-bpw",
        ),
        (
            rule("encoding = \"raw\"\nlayers = \"6-3\""),
            "mix.toml:5, rule 1: layers \"6-3\"; expected layers and ranges",
        ),
        (rule("encoding = \"raw\"\nlayers = [3]"), "layers is an array, expected a text such as"),
        (
            rule("encoding = \"raw\"\nregex = \"(\""),
            "mix.toml:5, rule 1: regex \"(\"; expected a regular expression",
        ),
        (rule("encoding = \"raw\"\nrole = \"head\""), "role \"head\""),
        (rule("encoding = \"raw\"\nrole = \"embeding\""), "role \"embeding\", did you mean \"embedding\"?"),
        (rule("encoding = \"raw\"\noptional = 1"), "optional is an integer, expected true or false"),
        (rule(""), "mix.toml:2, rule 1: the rule has no encoding"),
        (
            "[[rule]]\nencoding = \"raw\"".into(),
            "mix.toml:1, rule 1: the rule names no tensors: give tensor, regex",
        ),
        ("rule = 3".into(), "mix.toml:1: rule is an integer, expected [[rule]] tables"),
        ("default = 3".into(), "mix.toml:1: default is an integer, expected a table"),
        (
            "[default]\ntensor = \"a\"".into(),
            "mix.toml:2: unknown key \"tensor\"; expected encoding, group-size",
        ),
        (
            "[[rule]]\ntensor = [1]\nencoding = \"raw\"".into(),
            "tensor is an integer, expected a text, or an array",
        ),
    ] {
        let error = load(&text).expect_err(&text).to_string();
        assert!(error.contains(said), "{text}\n{error}\n{said}");
    }
    let wish = Wish { quantize: vec!["a".into()], ..Wish::default() };
    let error = read::read("mix.toml", "default.encoding = \"raw\"", &wish).unwrap_err().to_string();
    assert!(error.starts_with("--quantize: there is no encoding to quantize with"), "{error}");
}

#[test]
fn a_huge_file_is_no_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mix.toml");
    let load = |len: u64| {
        std::fs::File::create(&path).unwrap().set_len(len).unwrap();
        Recipe::load(&Wish { source: Source::File(path.clone()), ..Wish::default() }).unwrap_err()
    };
    let error = load(MAX_LEN + 1);
    assert!(matches!(*error.fault, Fault::TooLarge { limit: MAX_LEN }), "{error}");
    // Zeros are no TOML, either.
    assert!(matches!(*load(MAX_LEN).fault, Fault::Syntax(_)));
}
