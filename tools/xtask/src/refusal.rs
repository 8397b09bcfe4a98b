//! What the importer says to a model or a file of importance vectors: when it refuses it, with which error.

use std::fmt::Debug;
use std::path::Path;

use ccq_import::{Error, Importance, ImportanceError, Model};

/// A refusal: the phase (`open`, `read` or `importance`), the error's variant, the byte it is about, its message.
pub struct Refusal {
    pub phase: &'static str,
    pub error: String,
    pub offset: Option<u64>,
    pub message: String,
}

impl Refusal {
    /// The byte that the error is about, `-` for none.
    pub fn place(&self) -> String {
        self.offset.map_or("-".into(), |offset| offset.to_string())
    }

    /// Whether the message begins with a file, and names the byte, which is within that file or its end.
    pub fn is_placed(&self) -> bool {
        let file = self.message.split(": ").next().map(Path::new);
        let length = file.and_then(|file| file.metadata().ok()).map(|file| file.len());
        let Some(offset) = self.offset else { return length.is_some() };
        let said = self.message.split(": ").nth(1).is_some_and(|said| {
            let said = said.split([',', ' ']).skip_while(|word| *word != "byte").nth(1);
            said == Some(offset.to_string().as_str())
        });
        said && length.is_some_and(|length| offset <= length)
    }
}

/// What is said to the model at `path`, read to its end.
pub fn of_model(path: &Path) -> Option<Refusal> {
    let refusal = |phase, error: Error| Refusal {
        phase,
        error: classify(&error),
        offset: error.offset(),
        message: error.to_string(),
    };
    match Model::open(path) {
        Err(error) => Some(refusal("open", error)),
        Ok(model) => read(&model).err().map(|error| refusal("read", error)),
    }
}

/// What is said to the importance vectors at `path`.
pub fn of_importance(path: &Path) -> Option<Refusal> {
    let error = Importance::open(path).err()?;
    let (offset, message) = (error.offset(), error.to_string());
    let error = match &error {
        ImportanceError::Source(error) => classify(error),
        other => variant(other),
    };
    Some(Refusal { phase: "importance", error, offset, message })
}

/// Elements, and planes where there are any.
fn read(model: &Model) -> Result<(), Error> {
    for tensor in model.tensors() {
        model.elements(tensor, 0..tensor.element_count())?;
        if tensor.code().is_some() {
            model.planes(tensor, 0..tensor.shape.first().copied().unwrap_or(0))?;
        }
    }
    Ok(())
}

fn classify(error: &Error) -> String {
    let source: &dyn Debug = match error {
        Error::Gguf { source, .. } => source,
        Error::FastDeploy { source, .. } => source,
        Error::Fp8 { source, .. } => source,
        Error::BadName { problem, .. } => problem,
        other => return variant(other),
    };
    format!("{}{{{}}}", variant(error), variant(source))
}

/// The name of a variant.
fn variant(value: &dyn Debug) -> String {
    format!("{value:?}").split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().into()
}
