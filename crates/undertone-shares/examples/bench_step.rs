//! Times of one token by party.
//!
//! `bench_step [hidden] [intermediate] [layers] [heads] [key_heads] [vocab] [prompt] [steps]`
//! The model is synthetic. Both parties and the dealer take turns on the same threads, so times do not overlap.

use std::sync::Arc;
use std::time::Instant;

use undertone_model::config::LlamaConfig;
use undertone_model::synthetic::{small_config, synthetic};
use undertone_ring::detect_word_kernels;
use undertone_shares::formula::Traffic;
use undertone_shares::*;

/// Seconds of each part of a step.
#[derive(Default, Clone, Copy)]
struct Times {
    deal: f64,
    prepare: f64,
    provider: f64,
    user: f64,
}

fn timed<T>(sum: &mut f64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    *sum += start.elapsed().as_secs_f64();
    result
}

/// The rows of the step before and the tokens of this one lead to a token.
fn step(
    session: &mut DealerSession,
    (user, provider): (&mut User, &mut Provider),
    kept: usize,
    tokens: &[u32],
) -> Result<(u32, Times)> {
    let placement = Placement { kept, skipped: 0 };
    let mut times = Times::default();
    let (for_user, for_provider) = timed(&mut times.deal, || session.deal(tokens.len(), 1))?;
    provider.begin(for_provider, placement)?;
    let ahead = timed(&mut times.prepare, || user.begin(for_user, placement))?;
    provider.receive(ahead)?;
    let mut up = timed(&mut times.user, || user.embed(tokens))?;
    loop {
        let down = timed(&mut times.provider, || provider.receive(up))?.expect("every online flight has an answer");
        up = match timed(&mut times.user, || user.receive(down))? {
            Reply::Send(flight) => flight,
            Reply::Tokens(tokens) => return Ok((tokens[0], times)),
            Reply::Last(_) => unreachable!("a step with an output"),
            Reply::Choose => {
                let place = greedy_place(user.logits().expect("the logits that were announced").0);
                user.select(&[place])?
            }
        };
    }
}

fn main() -> Result<()> {
    let given: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().expect("numbers only")).collect();
    let argument = |i: usize, or: usize| given.get(i).copied().unwrap_or(or);
    let (hidden, heads) = (argument(0, 768), argument(3, 12));
    let config = LlamaConfig {
        hidden_size: hidden,
        intermediate_size: argument(1, 2048),
        num_hidden_layers: argument(2, 12),
        num_attention_heads: heads,
        num_key_value_heads: argument(4, 4),
        head_dim: hidden / heads,
        vocab_size: argument(5, 32_000),
        max_position_embeddings: 2048,
        ..small_config()
    };
    let (prompt, steps) = (argument(6, 32), argument(7, 8).max(1));
    // The float model is dropped before anything else is made.
    let model = Arc::new(QuantizedModel::new(&synthetic(config.clone(), 1))?);
    let shape = Shape::new(&config);
    println!(
        "{} parameters, {} threads",
        config.parameter_count(),
        std::thread::available_parallelism().map_or(1, usize::from)
    );
    println!("{:.1} MB of 16-bit weights at the provider", model.size_bytes() as f64 / 1e6);
    println!("{:.1} MB of masked weights at the user", MaskedModel::size_bytes(&shape) as f64 / 1e6);

    let start = Instant::now();
    let kernels = detect_word_kernels();
    let public = model.public().clone();
    // Above a billion weights the dealer's masks and the user's masked weights do not both fit most machines.
    let (held, seed) = (config.parameter_count() < 1 << 30, Seed::from_os()?);
    let dealer = if held { Dealer::with_seed } else { Dealer::drawing };
    let dealer = Arc::new(dealer(public.clone(), Arc::clone(&kernels), seed)?);
    let at_provider = Arc::new(ProviderModel::new(model, 2048, Arc::clone(&kernels)));
    let masked = at_provider.masked(&dealer.weight_seed());
    let at_user = Arc::new(UserModel::new(public, masked, 2048, kernels)?);
    println!("the dealer {} its masks", if held { "holds" } else { "draws" });
    println!("set-up of dealer and masked model {:.2} s", start.elapsed().as_secs_f64());
    let mut session = dealer.session()?;
    let (mut user, mut provider) = (User::new(at_user), Provider::new(at_provider));
    let report = |name: &str, times: Times, traffic: Traffic| {
        println!(
            "{name:<16} ahead: dealer {:.3} s, user {:.3} s; online: provider {:.3} s, user {:.3} s; {:.2} MB online + \
             {:.2} MB ahead = {:.2} MB a step, {:.2} MB offline, {} rounds",
            times.deal,
            times.prepare,
            times.provider,
            times.user,
            traffic.online_bytes as f64 / 1e6,
            traffic.ahead_bytes as f64 / 1e6,
            traffic.token_bytes() as f64 / 1e6,
            traffic.offline_bytes as f64 / 1e6,
            traffic.rounds(),
        );
    };
    let tokens: Vec<u32> = (0..prompt as u32).map(|i| i * 7 % 100).collect();
    let (mut token, times) = step(&mut session, (&mut user, &mut provider), 0, &tokens)?;
    report(
        &format!("prompt of {prompt}"),
        times,
        Traffic::new(&shape, &Step { number: 0, position: 0, tokens: prompt, outputs: 1, strict: false }),
    );
    // The least of each part: what the machine does when nobody disturbs it.
    let mut least = Times { deal: f64::MAX, prepare: f64::MAX, provider: f64::MAX, user: f64::MAX };
    for number in 0..steps {
        let kept = if number == 0 { prompt } else { 1 };
        let (next, times) = step(&mut session, (&mut user, &mut provider), kept, &[token])?;
        token = next;
        least.deal = least.deal.min(times.deal);
        least.prepare = least.prepare.min(times.prepare);
        least.provider = least.provider.min(times.provider);
        least.user = least.user.min(times.user);
    }
    let last = Step { number: steps as u64, position: prompt + steps - 1, tokens: 1, outputs: 1, strict: false };
    report("token, least", least, Traffic::new(&shape, &last));
    Ok(())
}
