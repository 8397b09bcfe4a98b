//! Small GGUF files, right or wrong.

/// ggml's numbers of types.
pub const F32: u32 = 0;

/// Metadata types.
pub const U32: u32 = 4;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

/// A GGUF file to be.
pub struct Gguf {
    pub version: u32,
    pub pairs: Vec<Vec<u8>>,
    pub tensors: Vec<Tensor>,
    /// Bytes after the data.
    pub trailing: Vec<u8>,
}

/// A tensor of it.
pub struct Tensor {
    pub name: Vec<u8>,
    /// Innermost first.
    pub dimensions: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
    /// Added to where its data is.
    pub shift: u64,
}

/// A string as the format has it.
pub fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// A metadata pair.
pub fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key), &kind.to_le_bytes()[..], value].concat()
}

/// Little-endian numbers.
pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl Gguf {
    /// A file that says what it is.
    pub fn new(architecture: &str) -> Self {
        let pairs = vec![pair("general.architecture", STRING, &text(architecture))];
        Self { version: 3, pairs, tensors: Vec::new(), trailing: Vec::new() }
    }

    /// llama.cpp's importance matrix, with a tensor of two input channels.
    pub fn imatrix() -> Self {
        let datasets = [&STRING.to_le_bytes()[..], &1u64.to_le_bytes(), &text("a.txt")].concat();
        let pairs = vec![
            pair("general.type", STRING, &text("imatrix")),
            pair("imatrix.datasets", ARRAY, &datasets),
            pair("imatrix.chunk_count", U32, &7u32.to_le_bytes()),
            pair("imatrix.chunk_size", U32, &512u32.to_le_bytes()),
        ];
        Self { version: 3, pairs, tensors: Vec::new(), trailing: Vec::new() }
            .tensor("a.in_sum2", &[2], F32, f32s(&[2.0, 8.0]))
            .tensor("a.counts", &[1], F32, f32s(&[4.0]))
    }

    /// With one more tensor.
    pub fn tensor(mut self, name: impl AsRef<[u8]>, dimensions: &[u64], kind: u32, data: Vec<u8>) -> Self {
        let (name, dimensions) = (name.as_ref().to_vec(), dimensions.to_vec());
        self.tensors.push(Tensor { name, dimensions, kind, data, shift: 0 });
        self
    }

    /// With one more pair.
    pub fn pair(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.pairs.push(pair(key, kind, value));
        self
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = [b"GGUF".as_slice(), &self.version.to_le_bytes()].concat();
        for count in [self.tensors.len(), self.pairs.len()] {
            file.extend((count as u64).to_le_bytes());
        }
        file.extend(self.pairs.iter().flatten());
        let mut data = Vec::new();
        for tensor in &self.tensors {
            file.extend(text(&tensor.name));
            file.extend((tensor.dimensions.len() as u32).to_le_bytes());
            file.extend(tensor.dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend((data.len() as u64).wrapping_add(tensor.shift).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        file.resize(file.len().next_multiple_of(32), 0);
        [file, data, self.trailing.clone()].concat()
    }
}
