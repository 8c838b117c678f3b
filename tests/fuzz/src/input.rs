//! Bytes as a course of events: each question takes some from the front, and
//! gets zeros when there are none left.

/// What is left of the bytes.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let bytes = self.take(N);
        array[..bytes.len()].copy_from_slice(bytes);
        array
    }

    /// As many as there are, at most `len`.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A byte that says how many, and they.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let len = self.byte().into();
        self.take(len)
    }

    /// Two bytes that say how many, and they.
    pub(crate) fn long_chunk(&mut self) -> &'a [u8] {
        let len = self.u16().into();
        self.take(len)
    }

    /// One of some, if there are any.
    pub(crate) fn pick<'t, T>(&mut self, of: &'t [T]) -> Option<&'t T> {
        let at = usize::from(self.byte());
        (!of.is_empty()).then(|| &of[at % of.len()])
    }
}
