use super::*;
use grpo::{
    reward::{answer, verify},
    task::{carry, steps},
};

const CPU: Device = Device::Cpu;

fn strings<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.map(String::from).to_vec()
}

#[test]
fn the_verifier_cannot_be_talked_into_anything() {
    let sum = carry::read("47+85=").unwrap();
    assert!(verify(&sum, "132<eos>"));
    for trick in [
        "",
        "<eos>",
        "=<eos>",
        "132",
        "132=",
        "132=<eos>",
        "1320<eos>",
        "0132<eos>",
        "13<eos>",
        "32<eos>",
        "132132<eos>",
        "022132<eos>",
        "132 <eos>",
        " 132<eos>",
        "+132<eos>",
        "132.0<eos>",
        "1.32e2<eos>",
        "131+1<eos>",
        "66*2<eos>",
        "132=022<eos>",
        "132<eos><eos>",
        "132<eos>132",
        "132\n<eos>",
        "١٣٢<eos>",
        "１３２<eos>",
        "0x84<eos>",
        "132?<eos>",
        "000=001=002=132=133<eos>",
    ] {
        assert!(!verify(&sum, trick), "{trick:?} was accepted");
    }
    let chain = steps::read("3*7+2*4+9=").unwrap();
    let worked = steps::worked(&chain).unwrap().completion;
    assert!(verify(&chain, &worked) && verify(&chain, &steps::blurted(&chain).completion));
    // All ten digits contain the answer; they do not give it.
    assert!(!verify(&chain, "0123456789<eos>"));
    assert!(!verify(&chain, "1=2=3=4=5=6=7=8=9=0<eos>"));
    // Only what stands last counts, and nothing before it is read. That is a choice.
    assert!(verify(&chain, "9=9=9=1<eos>"));
    assert_eq!(answer("9+1<eos>"), None);
}

/// Every problem, computed again by a rule of its own.
#[test]
fn the_tasks_know_the_answers() {
    let mut rng = seed::rng(3);
    let mut forgotten = 0;
    for _ in 0..500 {
        let problem = carry::draw(&mut rng).unwrap();
        let digits: Vec<u32> =
            problem.prompt.chars().filter_map(|c| c.to_digit(10)).collect();
        let [a, b, c, d] = digits[..] else { panic!("{problem:?}") };
        assert_eq!(problem.answer.parse::<u32>().unwrap(), 10 * (a + c) + b + d);
        let shown = carry::demonstrate(&problem, &mut rng).unwrap().completion;
        let columns = format!("0{}{}<eos>", (a + c) % 10, (b + d) % 10);
        assert!(shown == columns || verify(&problem, &shown), "{problem:?} {shown}");
        forgotten += usize::from(!verify(&problem, &shown));
    }
    // Forgotten in 0.7 of those that need one, which are 1 − 0.55² of all.
    assert!((200..290).contains(&forgotten), "{forgotten}");
    for _ in 0..500 {
        let problem = steps::draw(&mut rng).unwrap();
        let all: Vec<char> = problem.prompt.trim_end_matches('=').chars().collect();
        let state = all[1..].chunks(2).fold(all[0].to_digit(10).unwrap(), |state, pair| {
            let operand = pair[1].to_digit(10).unwrap();
            if pair[0] == '*' { state * operand } else { state + operand }
        });
        assert_eq!(problem.answer, (state % 10).to_string(), "{}", problem.prompt);
        // Each piece of the work is true: what follows from it stands at the next one.
        let worked = steps::worked(&problem).unwrap().completion;
        assert_eq!(worked.len(), "3*7=1+2=3*4=2<eos>".len());
    }
}

#[test]
fn rewards_give_what_they_promise() {
    let problem = steps::read("3*7+2=").unwrap();
    assert_eq!(problem.answer, "3");
    let group = strings(["3<eos>", "1+2=3<eos>", "4<eos>", "4<eos>", "34", "1+2=4<eos>"]);
    let of = |reward: Reward| {
        let one = |i| reward.of(&problem, &group, i).unwrap();
        (0..group.len()).map(one).collect::<Vec<f64>>()
    };
    assert_eq!(of(Reward::Verified), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(of(Reward::Long), [2.0, 6.0, 2.0, 2.0, 2.0, 6.0]);
    assert_eq!(of(Reward::Mentioned), [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    assert_eq!(of(Reward::Majority), [0.0, 0.0, 1.0, 1.0, 0.0, 1.0]);
    let brief = [0.8, 0.4, -0.2, -0.2, -0.2, -0.6];
    let apart =
        of(Reward::Brief(0.1)).iter().zip(brief).map(|(a, b)| (a - b).abs()).sum::<f64>();
    assert!(apart < 1e-12);
}

/// The smallest plan that trains at all.
fn small(lesson: Lesson) -> Plan {
    Plan {
        sft_steps: 4,
        work_steps: 2,
        steps: 3,
        held_out: 20,
        ..Plan::new(lesson, 1, true)
    }
}

fn numbers(student: &Student) -> Vec<f32> {
    let flat = |v: &candle_core::Var| v.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    student.decoder.variables().values().flat_map(flat).collect()
}

#[test]
fn a_reward_that_fails_on_one_completion_costs_that_one_and_the_run_goes_on() {
    let plan = Plan { prompts: 2, group_size: 4, ..small(Lesson::Lazy) };
    let mut course = Course::new(plan.clone(), &CPU).unwrap();
    let before = numbers(&course.student);
    let Course { student, optimizer, split, .. } = &mut course;
    let reward = |_: &Problem, _: &[String], i: usize| match i {
        2 => anyhow::bail!("no verdict"),
        3 => Ok(f64::NAN),
        i => Ok(1.0 + i as f64),
    };
    let (learnt, judged) = grpo_step(student, optimizer, split, &plan, reward, 0).unwrap();
    assert_eq!(judged.rewards, [1.0, 2.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0]);
    assert_eq!(judged.failures, 4);
    assert_eq!(format!("{:#}", judged.error.unwrap()), "completion 2: no verdict");
    assert_eq!(learnt.reward, 0.75);
    assert!(numbers(&course.student).iter().all(|number| number.is_finite()));
    assert_ne!(numbers(&course.student), before);
}

#[test]
fn silent_groups_change_nothing_and_a_missing_baseline_speaks() {
    let all_right = |_: &Problem, _: &[String], _: usize| Ok(1.0);
    for (baseline, moves) in [(Baseline::Group, false), (Baseline::None, true)] {
        let method = Method { baseline, ..Method::default() };
        let plan = Plan { prompts: 2, group_size: 4, method, ..small(Lesson::Carry) };
        let mut course = Course::new(plan.clone(), &CPU).unwrap();
        let before = numbers(&course.student);
        let Course { student, optimizer, split, .. } = &mut course;
        let (learnt, _) =
            grpo_step(student, optimizer, split, &plan, all_right, 0).unwrap();
        assert_eq!(learnt.silent, 1.0);
        assert_eq!(learnt.entropy.is_some(), moves);
        assert_eq!(numbers(&course.student) != before, moves, "{baseline:?}");
    }
}

#[test]
fn a_student_without_the_needed_characters_is_refused_by_name() {
    let plan = Plan { characters: "012345678+*=".into(), ..small(Lesson::Lazy) };
    let error = format!("{:#}", Course::new(plan, &CPU).err().unwrap());
    assert_eq!(
        error,
        "the task steps needs a token that is missing: there is no token `9`"
    );
}

#[test]
fn a_branch_goes_its_own_way() {
    let plan = small(Lesson::Carry);
    let mut course = Course::new(plan.clone(), &CPU).unwrap();
    while course.step < plan.sft_steps {
        course.advance().unwrap();
    }
    let taught = numbers(&course.student);
    let mut branches = [0, 1].map(|_| course.branch(plan.clone()).unwrap());
    while branches[0].step < branches[0].length() {
        branches[0].advance().unwrap();
    }
    assert_ne!(numbers(&branches[0].student), taught);
    assert_eq!(numbers(&branches[1].student), taught);
    assert_eq!(numbers(&course.student), taught);
    assert_eq!(numbers(&branches[0].start), taught);
    // And a second branch takes the same way.
    while branches[1].step < branches[1].length() {
        branches[1].advance().unwrap();
    }
    assert_eq!(numbers(&branches[0].student), numbers(&branches[1].student));
    assert_eq!(branches[0].record, branches[1].record);
}

#[test]
fn the_toy_only_grows_surer() {
    for chances in seed::over_seeds(5, |seed| toy::train(seed, &CPU)).unwrap() {
        let (first, last) = (chances[0], chances[chances.len() - 1]);
        assert!((0.75..0.92).contains(&first[0]), "{first:?}");
        assert!(last[0] > 0.985, "{last:?}");
        // The likeliest answer was right in every context before, and is so after.
        assert_eq!((first[1], last[1]), (1.0, 1.0));
    }
}

/// First and last examination of a run on every seed, with one thing changed.
fn ends(lesson: Lesson, change: fn(&mut Plan), courses: &[Course]) -> Vec<[Point; 2]> {
    let one = |course: &Course| {
        let mut plan = Plan { steps: 16, ..course.plan.clone() };
        change(&mut plan);
        let mut course = course.branch(plan).unwrap();
        while course.step < course.length() {
            course.advance().unwrap();
        }
        let points = course.record.points;
        [points[0].clone(), points[points.len() - 1].clone()]
    };
    let all: Vec<_> =
        seed::over_seeds(courses.len() as u64, |seed| Ok(one(&courses[seed as usize])))
            .unwrap();
    for (seed, [first, last]) in all.iter().enumerate() {
        println!(
            "{lesson} {seed}: sampled {:.2} {:.2}, greedy {:.2} {:.2}, length {:.1} {:.1}, worked {:.2} {:.2}",
            first.sampled,
            last.sampled,
            first.greedy,
            last.greedy,
            first.length,
            last.length,
            first.worked,
            last.worked
        );
    }
    all
}

/// Five students after their fine-tuning, a short one.
fn taught(lesson: Lesson, change: fn(&mut Plan)) -> Vec<Course> {
    seed::over_seeds(5, |seed| {
        let mut plan = Plan { held_out: 100, ..Plan::new(lesson, 40 + seed, true) };
        change(&mut plan);
        let mut course = Course::new(plan, &CPU)?;
        while course.step < course.plan.sft_steps {
            course.advance()?;
        }
        Ok(course)
    })
    .unwrap()
}

fn mean(all: &[[Point; 2]], value: impl Fn(&Point) -> f64) -> [f64; 2] {
    [0, 1].map(|end| {
        let values: Vec<f64> = all.iter().map(|ends| value(&ends[end])).collect();
        stats::mean_std(&values).0
    })
}

#[test]
fn a_verifier_makes_the_lazy_student_work_and_a_price_on_tokens_does_not() {
    let courses = taught(Lesson::Lazy, |_| ());
    let verified = ends(Lesson::Lazy, |_| (), &courses);
    let dear = ends(Lesson::Lazy, |plan| plan.method.reward = Reward::Brief(0.1), &courses);
    let never = taught(Lesson::Lazy, |plan| plan.works = [0.0, 0.0]);
    let never = ends(Lesson::Lazy, |_| (), &never);
    for [first, last] in &verified {
        assert!(
            first.worked < 0.3 && last.worked > first.worked + 0.2,
            "{first:?} {last:?}"
        );
        assert!(last.length > first.length + 2.0, "{first:?} {last:?}");
    }
    let [[before, after], [_, priced]] =
        [&verified, &dear].map(|runs| mean(runs, |point| point.greedy));
    assert!(after > before + 0.05 && priced < after - 0.1, "{before} {after} {priced}");
    for [_, last] in dear.iter().chain(&never) {
        assert!(last.worked < 0.1 && last.length < 3.5, "{last:?}");
    }
}

#[test]
fn a_verifier_cures_the_sloppy_habit_and_agreement_confirms_it() {
    let courses = taught(Lesson::Carry, |_| ());
    let verified = ends(Lesson::Carry, |_| (), &courses);
    let agrees =
        ends(Lesson::Carry, |plan| plan.method.reward = Reward::Majority, &courses);
    let shown = ends(Lesson::Carry, |plan| plan.method.imitate = true, &courses);
    let all = [&verified, &agrees, &shown];
    let [[before, verified], [_, agrees], [_, shown]] =
        all.map(|runs| mean(runs, |point| point.greedy));
    assert!(
        verified > before + 0.1 && verified > shown + 0.1,
        "{before} {verified} {shown}"
    );
    assert!(agrees < before - 0.04, "{before} {agrees}");
}
