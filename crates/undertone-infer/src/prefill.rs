//! The first step of a session: all private tokens of the prompt at once, through slots alone.
//!
//! Every layer but the last works on the whole block. The last layer computes keys and values of the block for the
//! cache and continues with the last row alone, in the dense frame, exactly as a decoding step does.

use crate::Error;
use crate::attention::block_angles;
use crate::mlp::Frame;
use crate::program::{LayerCache, Pass, ServerState, StepOutput};
use crate::refresh::{drop_one, drop_to};
use crate::rope::Angles;
use undertone_he::Evaluator;

/// Runs the block; see the module documentation.
pub(crate) fn prefill<E: Evaluator>(
    mut pass: Pass<'_, E>,
    input: Vec<E::Value>,
) -> Result<(StepOutput<E>, ServerState<E>), Error> {
    let program = pass.program;
    let angles = block_angles(&pass);
    let mut layers = Vec::with_capacity(program.layers.len());
    let cached = program.layout.shape.private_tokens;
    let mut x = input;
    for layer in 0..program.layers.len() {
        let last = layer + 1 == program.layers.len();
        let heads = project_block(&mut pass, layer, &x, &angles, last)?;
        let [queries, keys, values] = heads;
        let plan = &program.layers[layer];
        let cache = LayerCache::new(
            drop_to(pass.ev, &keys, plan.softmax.cached_key_level())?,
            drop_to(pass.ev, &values, plan.softmax.token.last_square)?,
        );
        if last {
            x = pass.attend_token(layer, (&x, Frame::Block), &queries, &cache, cached)?;
            x = pass.mlp(layer, &x, Frame::Dense)?;
        } else {
            x = pass.attend_block(layer, &x, [queries, keys, values])?;
            x = pass.mlp(layer, &x, Frame::Block)?;
        }
        layers.push(cache);
    }
    Ok((pass.head(&x)?, ServerState { layers, cached }))
}

/// Queries, keys and values of the block, bootstrapped; queries of the last row alone, dense, in the last layer.
fn project_block<E: Evaluator>(
    pass: &mut Pass<'_, E>,
    layer: usize,
    x: &[E::Value],
    angles: &[Angles],
    last: bool,
) -> Result<[Vec<E::Value>; 3], Error> {
    let program = pass.program;
    let layout = &program.layout;
    let normed = pass.attention_norm(layer, x, Frame::Block)?;
    let p = pass.projections(layer);
    let live = |token: usize| token < layout.shape.private_tokens;
    let low = drop_to(pass.ev, &normed, program.chain.boot_level + 1)?;
    // Rows past the prompt stay zero: generated tokens are added there.
    let key = |token: usize, head, j, c| if live(token) { p.key.rotated(head, j, c, &angles[token]) } else { 0.0 };
    let (queries, keys) = if last {
        let angles = &angles[layout.shape.private_tokens - 1];
        let queries = pass.last_row(&low, |head, j, c| p.query.rotated(head, j, c, angles))?;
        (queries, pass.block_rows(&low, &[&key])?)
    } else {
        let query = |token: usize, head, j, c| p.query.rotated(head, j, c, &angles[token]);
        let mut queries = pass.block_rows(&low, &[&query, &key])?;
        let keys = queries.split_off(queries.len() / 2);
        (queries, keys)
    };
    let plan = &program.layers[layer];
    let value_level = if plan.refresh_values { program.chain.boot_level } else { plan.value_level };
    let source = normed.iter().map(|x| drop_one(pass.ev, x, value_level + 1)).collect::<Result<Vec<_>, _>>()?;
    let value = |token, head, j, c| if live(token) { p.value.plain(head, j, c) } else { 0.0 };
    let values = pass.block_rows(&source, &[&value])?;
    let fresh = pass.refresh_heads(layer, [queries, keys, values], layout.head_axis().period())?;
    pass.steps.done("qkv", layer)?;
    Ok(fresh)
}
