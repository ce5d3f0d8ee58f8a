use super::*;
use candle_core::Device::Cpu;

fn tokens() -> Tensor {
    ids("47+85=132", &Cpu).unwrap()
}

/// A decoder of another shape than the chapter's, with numbers that matter.
fn other(seed: u64, config: Config) -> Decoder {
    let decoder = Decoder::new(&config, &mut seed::rng(seed), DType::F64, &Cpu).unwrap();
    trap::randomise(decoder.variables(), &mut seed::rng(seed + 1)).unwrap();
    decoder
}

#[test]
fn the_page_computes_what_the_library_computes() {
    let whole = student_config(&Cpu).unwrap();
    for config in [
        Config { kv_heads: 4, qkv_bias: false, tied: false, ..whole.clone() },
        Config { kv_heads: 1, layers: 3, head_dim: 10, ..whole.clone() },
        whole,
    ] {
        let decoder = other(7, config);
        let page = Transformer::of(&decoder, WHOLE);
        let logits = |policy: &dyn Policy| policy.logits(&tokens()).unwrap();
        let loss = |policy: &dyn Policy| logits(policy).sqr().unwrap().mean_all().unwrap();
        let apart = (logits(&page) - logits(&decoder)).unwrap();
        assert!(largest(&apart).unwrap() < 1e-5 * largest(&logits(&decoder)).unwrap());
        let ours = gradients::of(&loss(&page), page.variables()).unwrap();
        let library = gradients::of(&loss(&decoder), decoder.variables()).unwrap();
        for (name, variable) in decoder.variables() {
            let (a, b) = (ours.get(variable).unwrap(), library.get(variable).unwrap());
            let apart = largest(&(a - b).unwrap()).unwrap() / largest(b).unwrap();
            assert!(apart < 2e-5, "{name}: {apart:.1e}");
        }
    }
}

#[test]
fn the_fused_layers_change_no_logit() {
    let config = student_config(&Cpu).unwrap();
    let decoder = Decoder::new(&config, &mut seed::rng(5), DType::F32, &Cpu).unwrap();
    let logits = |parts| Transformer::of(&decoder, parts).logits(&tokens()).unwrap();
    let right = logits(WHOLE);
    for (name, parts) in VARIANTS {
        let apart = largest(&(logits(parts) - &right).unwrap()).unwrap();
        let same = apart < 1e-5 * largest(&right).unwrap();
        assert_eq!(same, parts.mask, "{name}: {apart:.1e}");
    }
}

#[test]
fn only_earlier_tokens_are_noticed_and_without_the_mask_all() {
    for seed in 20..25 {
        let decoder = other(seed, student_config(&Cpu).unwrap());
        for changed in 0..9 {
            let after = |mask| {
                let policy = Transformer::of(&decoder, Parts { mask, ..WHOLE });
                noticed(&policy, &tokens(), changed).unwrap()
            };
            let expected: Vec<bool> = (0..9).map(|position| position >= changed).collect();
            assert_eq!(after(true), expected, "seed {seed}, token {changed}");
            assert_eq!(after(false), [true; 9], "seed {seed}, token {changed}");
        }
    }
}

#[test]
fn one_layer_without_positions_cannot_tell_12_from_21() {
    for seed in 30..35 {
        let config = Config { layers: 1, ..student_config(&Cpu).unwrap() };
        let decoder = other(seed, config);
        let apart = |positions| {
            let policy = Transformer::of(&decoder, Parts { positions, ..WHOLE });
            let last = |text| {
                let logits = policy.logits(&ids(text, &Cpu).unwrap()).unwrap();
                logits.narrow(1, 5, 1).unwrap()
            };
            largest(&(last("12+34=") - last("21+34=")).unwrap()).unwrap()
        };
        assert!(apart(false) < 1e-10, "seed {seed}: {}", apart(false));
        assert!(apart(true) > 1e-3, "seed {seed}: {}", apart(true));
    }
}

/// The matrices of the model by name, and every pair of a query and a key by hand.
fn counted_slowly(config: &Config, seen: usize, new: usize) -> u64 {
    let mut count = 0;
    for _ in 0..new {
        for (name, shape) in config.tensors() {
            if let ([outputs, inputs], true) = (&shape[..], name.contains(".layers.")) {
                count += outputs * inputs;
            }
        }
        for _ in 0..config.layers * config.heads {
            for _key in 0..seen + new {
                count += config.head_dim; // the score
                count += config.head_dim; // the weighted value
            }
        }
    }
    (count + config.hidden_size * config.vocab_size) as u64
}

#[test]
fn multiplications_are_those_of_the_matrices() {
    let small = student_config(&Cpu).unwrap();
    for config in [small.clone(), Config { kv_heads: 4, head_dim: 10, ..small.clone() }] {
        for (seen, new) in [(0, 1), (0, 12), (12, 1), (5, 7)] {
            let fast = cache::multiplications(&config, seen, new);
            assert_eq!(fast, counted_slowly(&config, seen, new), "{seen} {new}");
        }
    }
    // Two tokens after a prompt of three: read 3 and then 4 tokens, or 3 and then 1.
    let count = |seen, new| counted_slowly(&small, seen, new);
    assert_eq!(cache::without_cache(&small, 3, 2), count(0, 3) + count(0, 4));
    assert_eq!(cache::with_cache(&small, 3, 2), count(0, 3) + count(3, 1));
}

/// Right by far, or wrong by far: no verdict hangs on where the line is drawn.
fn clear(name: &str, errors: &[(String, Option<f64>)]) {
    for (variable, error) in errors {
        if let Some(error) = error {
            let doubtful = (0.01..0.06).contains(error) || error.is_nan();
            assert!(!doubtful, "{name} {variable}: {error:.3}");
        }
    }
}

#[test]
fn the_stock_layers_have_no_gradient_and_their_replacements_the_right_one() {
    for layer in &trap::LAYERS {
        let ([stock, instead], same) = layer.judge().unwrap();
        assert!(same, "{}", layer.name);
        let all = stock.len();
        assert_eq!(trap::count(&stock), [all, 0, 0], "{}", layer.name);
        assert_eq!(trap::count(&instead), [all; 3], "{}", layer.name);
        clear(layer.instead, &instead);
    }
}

#[test]
fn no_stock_model_is_trainable_and_ours_are() {
    for model in trap::models().unwrap() {
        let errors = model.errors().unwrap();
        clear(model.name, &errors);
        let [all, with, right] = trap::count(&errors);
        assert!(with < all && right <= with, "{}: {with} {right} of {all}", model.name);
        if let "qwen2" | "qwen3" | "llama" = model.name {
            assert_eq!(with, 1, "{}", model.name);
        }
    }
    for model in trap::ours().unwrap() {
        let errors = model.errors().unwrap();
        clear(model.name, &errors);
        assert_eq!(trap::count(&errors), [errors.len(); 3], "{}", model.name);
    }
}

#[test]
fn the_canary_names_what_a_fused_layer_cuts_off() {
    let config = student_config(&Cpu).unwrap();
    let decoder = Decoder::new(&config, &mut seed::rng(0), DType::F32, &Cpu).unwrap();
    for (name, parts) in VARIANTS {
        let policy = Transformer::of(&decoder, parts);
        let loss = policy.logits(&tokens()).unwrap().sqr().unwrap().mean_all().unwrap();
        let verdict = gradients::of(&loss, policy.variables()).map(|_| ());
        match parts.stock == transformer::Stock::default() {
            true => verdict.unwrap(),
            false => {
                let error = verdict.unwrap_err().to_string();
                let [with, all] = [error.contains("q_proj"), error.contains("of 26")];
                assert!(with && all, "{name}: {error}");
            }
        }
    }
}

#[test]
fn a_perfect_pupil_is_as_good_as_counting_says() {
    let mut all = Vec::new();
    for a in 0..100 {
        for b in 0..100 {
            all.push(carry::read(&format!("{a:02}+{b:02}=")).unwrap());
        }
    }
    // No carry: units and tens both below ten, 55 of 100 pairs of digits each.
    let perfect = learn::perfect(&all).unwrap();
    assert!((perfect.greedy - 0.3025).abs() < 1e-12);
    assert!((perfect.sampled - (0.3025 + 0.6975 * 0.3)).abs() < 1e-12);
    // The loss and the share of right answers of the teacher's own words.
    let mut rng = seed::rng(77);
    let (mut nats, mut right, count) = (0.0, 0, 40_000);
    for i in 0..count {
        let problem = &all[(i * 7919) % all.len()];
        let shown = carry::demonstrate(problem, &mut rng).unwrap();
        let is_right = grpo::reward::verify(problem, &shown.completion);
        right += usize::from(is_right);
        let disagree = carry::sloppy(problem).unwrap() != problem.answer;
        nats -= if disagree { (if is_right { 0.3f64 } else { 0.7 }).ln() } else { 0.0 };
    }
    let (nats, right) = (nats / (4 * count) as f64, right as f64 / count as f64);
    assert!((perfect.loss - nats).abs() < 0.002, "{} {nats}", perfect.loss);
    assert!((perfect.sampled - right).abs() < 0.01, "{} {right}", perfect.sampled);
}

#[test]
fn held_out_prompts_are_never_shown() {
    let split = learn::split(3).unwrap();
    let held_out: Vec<&str> =
        split.held_out.iter().map(|problem| problem.prompt.as_str()).collect();
    assert_eq!(held_out.len(), learn::HELD_OUT);
    for step in 0..50 {
        for shown in learn::demonstrations(&split, 96, 3, step).unwrap() {
            assert!(!held_out.contains(&shown.prompt.as_str()), "{}", shown.prompt);
        }
    }
}

/// On the problems where the teacher's two ways disagree: how often the right answer comes
/// greedily, and how often sampled.
fn latent(student: &Student, seed: u64) -> [f64; 2] {
    let mut problems = learn::split(seed).unwrap().held_out;
    problems.retain(|problem| carry::sloppy(problem).unwrap() != problem.answer);
    [Sampler::greedy(), Sampler::at(1.0)]
        .map(|sampler| exam(student, &problems, sampler, seed).unwrap().accuracy())
}

/// The chapter's run, from seeds that no recording uses.
#[test]
fn pupils_take_on_the_habit_and_keep_the_right_answer_in_reserve() {
    let runs = seed::over_seeds(5, |seed| {
        let seed = 60 + seed;
        let (student, points) = learn::learn(seed, &SETTINGS, &Cpu, |_| ())?;
        Ok((points[points.len() - 1], latent(&student, seed)))
    });
    for (seed, (point, [greedy, sampled])) in runs.unwrap().into_iter().enumerate() {
        println!("seed {seed}: {point:?} latent {greedy:.2} {sampled:.2}");
        assert!(point.habit > 0.7, "seed {seed}: {}", point.habit);
        assert!((0.09..0.3).contains(&point.loss), "seed {seed}: {}", point.loss);
        assert!(greedy < 0.1 && sampled > greedy + 0.05, "seed {seed}: {greedy} {sampled}");
    }
}

/// The same weights and demonstrations with a fused softmax, with a fused norm, and
/// without a mask. All losses fall, and no pupil can do anything.
#[test]
fn broken_transformers_lower_their_loss_and_learn_nothing() {
    let short = Settings { steps: 250, ..BROKEN };
    let runs = seed::over_seeds(15, |job| {
        let (seed, variant) = (60 + job / 3, 1 + job as usize % 3);
        Ok((variant, learn::train(seed, VARIANTS[variant].1, &short, &Cpu)?))
    });
    let floor = learn::perfect(&learn::split(60).unwrap().held_out).unwrap().loss;
    for (variant, trained) in runs.unwrap() {
        let (name, parts) = VARIANTS[variant];
        println!("{name}: {:.3} {:.2} {:.2}", trained.loss(), trained.habit, trained.right);
        assert!(trained.loss() < trained.losses[0] - 0.5, "{name}: {}", trained.loss());
        assert_eq!(trained.loss() < floor / 2.0, !parts.mask, "{name}: {}", trained.loss());
        assert!(trained.habit < 0.1 && trained.right < 0.1, "{name}");
        assert_eq!(trained.reached[0] == trained.reached[1], !parts.mask, "{name}");
    }
}

#[test]
fn the_cache_changes_no_token() {
    // In double precision: in single, two tokens may be as likely as each other but for
    // the last digit.
    let config = Config { context: 64, ..student_config(&Cpu).unwrap() };
    let decoder = Decoder::new(&config, &mut seed::rng(0), DType::F64, &Cpu).unwrap();
    let prompts = cache::prompts(3);
    let with = cache::write(&decoder, &prompts, 20).unwrap();
    assert!(with.iter().all(|row| row.len() == 20));
    assert_eq!(with, cache::write_again(&decoder, &prompts, 20).unwrap());
}
