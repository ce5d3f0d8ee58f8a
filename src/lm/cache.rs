//! Keys and values of the tokens already seen, so that each new one costs one column.
//!
//! The memory is reserved once for the whole completion; a step writes its column in
//! place. Writing in place has no backward pass: a cache is for sampling only.
//!
//! Left out: pages, because all rows of a batch have the same length here.

use crate::Result;
use anyhow::ensure;
use candle_core::Tensor;

/// For each layer the keys and values (B, K, capacity, head_dim), of which the first
/// `length` columns are filled.
pub(crate) struct Cache {
    layers: Vec<[Tensor; 2]>,
    capacity: usize,
    pub length: usize,
}

impl Cache {
    /// Empty, for `layers` layers. The tensors are made when the first keys arrive.
    pub fn new(layers: usize, capacity: usize) -> Self {
        Self { layers: Vec::with_capacity(layers), capacity, length: 0 }
    }

    /// Adds keys and values (B, K, T, head_dim) of one layer, and returns all there are,
    /// (B, K, length + T, head_dim), without a copy.
    pub fn append(
        &mut self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (batch, heads, added, head_dim) = k.dims4()?;
        let (total, capacity) = (self.length + added, self.capacity);
        ensure!(total <= capacity, "{total} tokens do not fit a cache for {capacity}");
        if self.layers.len() == layer {
            let empty =
                || Tensor::zeros((batch, heads, capacity, head_dim), k.dtype(), k.device());
            self.layers.push([empty()?, empty()?]);
        }
        let [keys, values] = &self.layers[layer];
        keys.slice_set(&k.contiguous()?, 2, self.length)?;
        values.slice_set(&v.contiguous()?, 2, self.length)?;
        Ok((keys.narrow(2, 0, total)?, values.narrow(2, 0, total)?))
    }

    /// A cache with these rows of this one, in this order: a row may come several times,
    /// or not at all.
    pub fn rows(&self, rows: &Tensor, capacity: usize) -> Result<Self> {
        let length = self.length;
        let pick = |x: &Tensor| -> Result<Tensor> {
            if capacity == self.capacity {
                return Ok(x.index_select(rows, 0)?);
            }
            let (_, heads, _, head_dim) = x.dims4()?;
            let shape = (rows.elem_count(), heads, capacity, head_dim);
            let wider = Tensor::zeros(shape, x.dtype(), x.device())?;
            let filled = x.narrow(2, 0, length)?.contiguous()?.index_select(rows, 0)?;
            wider.slice_set(&filled, 2, 0)?;
            Ok(wider)
        };
        let layers = self
            .layers
            .iter()
            .map(|[k, v]| Ok([pick(k)?, pick(v)?]))
            .collect::<Result<_>>()?;
        Ok(Self { layers, capacity, length })
    }
}
