//! Fine-tuning and examinations of a small student.

use candle_core::{DType, Device::Cpu, Tensor};
use grpo::{
    lm::{exam::exam, sft, student::Student},
    sampling::Sampler,
    seed,
    task::{Split, carry, steps},
};

fn student() -> Student {
    Student::new(&steps::TASK, &mut seed::rng(5), &Cpu).unwrap()
}

/// One demonstration alone, without padding: minus the sum of its log-probabilities, and
/// how many there are.
fn alone(student: &Student, prompt: &str, completion: &str) -> (f64, usize) {
    let ids = |text: &str| {
        let ids = student.tokenizer.encode(text).unwrap();
        Tensor::new(ids, &Cpu).unwrap().unsqueeze(0).unwrap()
    };
    let tokens = ids(completion);
    let scores = student.decoder.score(&ids(prompt), None, &tokens, 1.0).unwrap();
    let sum = scores.log_probs.to_dtype(DType::F64).unwrap().sum_all().unwrap();
    (-sum.to_scalar::<f64>().unwrap(), tokens.dim(1).unwrap())
}

#[test]
fn the_loss_of_ragged_demonstrations_is_the_mean_over_their_tokens() {
    let student = student();
    let prompts = ["3*7+2*4=", "5+5=", "9*9*9+2+2=", "2*2="];
    let shown: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| {
            let problem = steps::read(prompt).unwrap();
            if i % 2 == 0 {
                steps::worked(&problem).unwrap()
            } else {
                steps::blurted(&problem)
            }
        })
        .collect();
    let (sums, counts): (Vec<f64>, Vec<usize>) =
        shown.iter().map(|one| alone(&student, &one.prompt, &one.completion)).unzip();
    let expected = sums.iter().sum::<f64>() / counts.iter().sum::<usize>() as f64;
    // `<eos>` is one token, and counts.
    assert_eq!(counts, [14, 2, 18, 2]);

    let settings = sft::Settings { steps: 1, batch: 4, lr: 1e-3, warm_up: 1 };
    let mut optimizer = sft::optimizer(&student, settings.lr).unwrap();
    let loss = sft::step(&student, &mut optimizer, &shown, &settings, 0).unwrap();
    assert!((loss - expected).abs() < 1e-5, "{loss} {expected}");
    let after = sft::step(&student, &mut optimizer, &shown, &settings, 0).unwrap();
    assert!(after < loss, "{loss} {after}");
    let error = sft::step(&student, &mut optimizer, &[], &settings, 0).unwrap_err();
    assert!(error.to_string().contains("there are no"), "{error}");
}

#[test]
fn examinations_depend_on_the_student_and_on_nothing_else() {
    let student = student();
    let split = Split::new(steps::TASK, 40, &mut seed::rng(1)).unwrap();
    let marks = |sampler, seed| {
        let exam = exam(&student, &split.held_out, sampler, seed).unwrap();
        let (low, high) = exam.interval();
        assert!(low <= exam.accuracy() && exam.accuracy() <= high);
        assert!(exam.length() >= 1.0 && exam.length() <= 20.0);
        exam.texts
    };
    assert_eq!(marks(Sampler::at(1.0), 3), marks(Sampler::at(1.0), 3));
    assert_ne!(marks(Sampler::at(1.0), 3), marks(Sampler::at(1.0), 4));
    assert_eq!(marks(Sampler::greedy(), 3), marks(Sampler::greedy(), 4));
    // A part of the problems gets the answers that it gets among all.
    let first = exam(&student, &split.held_out[..7], Sampler::at(1.0), 3).unwrap();
    assert_eq!(first.texts, marks(Sampler::at(1.0), 3)[..7]);
}

#[test]
fn what_is_held_out_is_never_drawn() {
    let mut rng = seed::rng(2);
    // Nearly everything is kept back, so that a draw would often hit it.
    let split = Split::new(carry::TASK, 8000, &mut rng).unwrap();
    for _ in 0..500 {
        let drawn = split.draw(&mut rng).unwrap();
        assert!(split.held_out.iter().all(|problem| *problem != drawn));
    }
    let error = Split::new(carry::TASK, 10_001, &mut rng).err().unwrap().to_string();
    assert!(error.contains("carry has hardly more than 10000 problems"), "{error}");
}
