//! The recipes that come with the tool.

/// A named recipe.
#[derive(Debug)]
pub struct Preset {
    /// The name users type.
    pub name: &'static str,
    /// The recipe.
    pub text: &'static str,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 3] = [
        Self { name: "uniform", text: include_str!("../../presets/uniform.toml") },
        Self { name: "ernie-w4w2", text: include_str!("../../presets/ernie-w4w2.toml") },
        Self { name: "deepseek-moe", text: include_str!("../../presets/deepseek-moe.toml") },
    ];

    /// The preset of that name.
    pub fn from_name(name: &str) -> Option<&'static Self> {
        const ALL: &[Preset] = &Preset::ALL;
        ALL.iter().find(|preset| preset.name == name)
    }
}
