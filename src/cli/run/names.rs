//! Names for containers that their user did not name: `adjective_surname`, as docker makes them.
//!
//! Whether a name is free is for the caller to find out.

/// A name picked at random from some 15,000.
#[must_use]
pub fn generate() -> String {
    let [a, b, c, d] = random();
    let (first, second) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
    format!("{}_{}", pick(ADJECTIVES, first), pick(SURNAMES, second))
}

fn random() -> [u8; 4] {
    let mut bytes = [0_u8; 4];
    // Names are no secrets: a kernel with no randomness to give yet gets by with the time.
    if rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) != Ok(4) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        bytes = now.map_or(0, |now| now.subsec_nanos()).to_le_bytes();
    }
    bytes
}

fn pick(list: &'static str, number: u16) -> &'static str {
    let words = || list.split_ascii_whitespace();
    let at = usize::from(number) % words().count();
    words().nth(at).unwrap_or_default()
}

const ADJECTIVES: &str = "
    able agile airy alert amber ample apt astute avid balanced bold brave breezy bright brisk calm
    candid careful cheerful civil clear clever cordial cosy curious daring deft diligent dreamy eager
    earnest easy elegant exact fair fearless fine fond frank free fresh friendly gallant gentle genuine
    gifted glad golden graceful grand handy happy hardy hearty honest hopeful humble jolly jovial joyful
    keen kind lively logical loyal lucid lucky mellow merry mindful modest neat nimble noble open patient
    playful plucky polite proud quick quiet radiant ready robust serene sharp silent smart snug sober
    solid spry steady stoic sunny swift tender thoughtful tidy tranquil trusty upbeat vivid warm wise
    witty zesty
";

const SURNAMES: &str = "
    abel ada agnesi alhazen ampere anning archimedes aryabhata avicenna avogadro babbage banach banneker
    bardeen bassi becquerel bell berners bernoulli bessel bhabha bohr boltzmann boole born bose boyle
    brahe brahmagupta burnell cannon cantor carson carver cauchy cavendish celsius chandrasekhar chatelet
    chebyshev church clausius cori coulomb crick curie dalton darwin davy dedekind descartes diffie
    dijkstra dirac easley eddington edison ehrlich einstein engelbart erdos eratosthenes euclid euler
    faraday fermat fermi feynman fibonacci fleming foucault fourier franklin fresnel galileo galois gauss
    germain gibbs godel goodall hadamard haibt halley hamilton hawking heaviside heisenberg helmholtz
    hermann herschel hertz hilbert hodgkin hooke hopper hubble humboldt huygens hypatia jacobi jemison
    jennings johnson joliot joule kalam kapitsa karatsuba kepler khorana khwarizmi kilby klein knuth
    kolmogorov kovalevskaya lagrange lamarr lamport landau laplace lavoisier leavitt leibniz levi
    linnaeus liskov lorentz lovelace lyell mach markov matsumoto maxwell mayer mcclintock meitner mendel
    mendeleev mersenne mirzakhani morse napier nash newton nightingale noether ohm oppenheimer pascal
    pasteur pauli pauling payne peano planck poincare ptolemy pythagoras raman ramanujan rayleigh riemann
    ritchie roentgen rubin rutherford sagan schrodinger shannon sinoussi somerville stokes swartz tarski
    tereshkova tesla thompson torvalds turing vaughan volta wallace watt weierstrass wien wiles wing
    wozniak wright wu yalow yonath zhukovsky
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_long_and_have_no_word_twice() {
        for (list, least) in [(ADJECTIVES, 80), (SURNAMES, 150)] {
            let words: Vec<&str> = list.split_whitespace().collect();
            let mut once = words.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), words.len());
            assert!(words.len() >= least, "{}", words.len());
            assert!(
                words
                    .iter()
                    .all(|word| word.bytes().all(|b| b.is_ascii_lowercase()))
            );
        }
    }

    #[test]
    fn every_name_can_name_a_container() {
        let names: Vec<String> = (0..64).map(|_| generate()).collect();
        assert!(names.iter().all(|name| crate::spec::is_name(name)));
        assert!(names.iter().any(|name| *name != names[0]));
    }
}
