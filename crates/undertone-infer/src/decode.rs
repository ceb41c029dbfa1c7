//! One decoding step: a generated token in the dense frame, over the public and the encrypted cache.

use crate::Error;
use crate::layer::SPREAD;
use crate::mlp::Frame;
use crate::packing::check;
use crate::program::{Pass, ServerState, StepOutput};
use crate::refresh::drop_to;
use crate::rope::Angles;
use undertone_he::Evaluator;

/// Runs one token; see the module documentation.
pub(crate) fn decode<E: Evaluator>(
    mut pass: Pass<'_, E>,
    state: &mut ServerState<E>,
    input: Vec<E::Value>,
) -> Result<StepOutput<E>, Error> {
    let program = pass.program;
    let shape = program.layout.shape;
    check("the number of input ciphertexts", input.len(), 1, 1)?;
    check("the number of cached layers", state.layers.len(), program.layers.len(), program.layers.len())?;
    // The prefill yields the first new token; every step yields one more.
    let tokens = state.cached + 2 - shape.private_tokens;
    if tokens > shape.max_new_tokens {
        return Err(Error::SequenceFull { have: tokens, need: shape.max_new_tokens });
    }
    let angles = Angles::new(&program.config, shape.public_tokens + state.cached);
    // The caches change only when the step succeeds.
    let mut next = state.clone();
    next.cached += 1;
    let mut x = input;
    for layer in 0..program.layers.len() {
        let query = append_token(&mut pass, layer, &x, &angles, &mut next)?;
        x = pass.attend_token(layer, (&x, Frame::Dense), &query, &next.layers[layer], next.cached)?;
        x = pass.mlp(layer, &x, Frame::Dense)?;
    }
    let output = pass.head(&x)?;
    *state = next;
    Ok(output)
}

/// Adds key and value of the token to the cache and returns its bootstrapped query, dense.
fn append_token<E: Evaluator>(
    pass: &mut Pass<'_, E>,
    layer: usize,
    x: &[E::Value],
    angles: &Angles,
    state: &mut ServerState<E>,
) -> Result<Vec<E::Value>, Error> {
    let (ev, program) = (pass.ev, pass.program);
    let (layout, chain) = (&program.layout, program.chain);
    let plan = &program.layers[layer];
    let normed = pass.attention_norm(layer, x, Frame::Dense)?;
    let p = pass.projections(layer);
    let low = drop_to(ev, &normed, chain.boot_level + 1)?;
    let query = |head, j, c| p.query.rotated(head, j, c, angles);
    let key = |head, j, c| p.key.rotated(head, j, c, angles);
    let plain = |head, j, c| p.value.plain(head, j, c);
    let position = state.cached - 1;
    let row = |t| t == position % layout.block;
    let levels = &plan.softmax.token;
    // The value is bootstrapped, dense with levels left, or straight at its row.
    let mut value = None;
    let dense = if plan.refresh_values {
        pass.dense_rows(&low, &[&query, &key, &plain])?
    } else if plan.dense_values {
        let source = drop_to(ev, &normed, levels.last_square + SPREAD + 1)?;
        value = Some(pass.spread_rows(&pass.dense_rows(&source, &[&plain])?, SPREAD, row, 1.0)?);
        pass.dense_rows(&low, &[&query, &key])?
    } else {
        let source = drop_to(ev, &normed, levels.last_square + 1)?;
        value = Some(pass.to_rows(&source, layout.dense_axis(layout.hidden), row, plain)?);
        pass.dense_rows(&low, &[&query, &key])?
    };
    let fresh = pass.refresh(&dense, layout.dense_head_axis().period())?;
    let value = match value {
        Some(value) => value,
        None => pass.spread_rows(&drop_to(ev, &fresh[2..], levels.last_square + SPREAD)?, SPREAD, row, 1.0)?,
    };
    let key = drop_to(ev, &fresh[1..2], levels.start)?;
    let key = pass.spread_rows(&key, plan.softmax.spread, row, 1.0)?;
    state.layers[layer].append(ev, position, layout.block, key, value)?;
    pass.steps.done("qkv", layer)?;
    Ok(vec![fresh[0].clone()])
}
