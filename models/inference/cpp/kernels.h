// Vectors, matrix products on packed weights, and teams of threads that share the work of one.
//
// Every output is summed in the order of its inputs, however many rows, worlds or threads there are: a row has the same
// bits alone and in a batch.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#include <thread>
#include <vector>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr long LANES = 16, ROWS = 8;
#else
constexpr long LANES = 8, ROWS = 4;
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));

INLINE Vector load(const float* from) { return *reinterpret_cast<const Unaligned*>(from); }
INLINE void store(float* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
INLINE Vector all(float value) { return Vector{} + value; }
INLINE Vector most(Vector a, Vector b) { return a > b ? a : b; }
INLINE Vector positive(Vector x) { return most(x, Vector{}); }
INLINE Whole nearest(Vector x) { return __builtin_convertvector(x + 12582912.0f - 12582912.0f, Whole); }  // below 2^22

// What inputs and weights of products are made of. `add`: the product of PAIR inputs at once, each lane of `weight`
// times the same inputs, added to `sum`. `wide`: as float. `pair`: lays LANES inputs and the next ones side by side.
// Heavy: what the layers with many weights are made of.
template <class T> struct Kind;

template <> struct Kind<float> {
    static constexpr long PAIR = 1;
    typedef float Heavy;
    // Fused by hand: left to itself a compiler fuses in some tiles and not in others, and bits depend on the batch.
    static INLINE Vector add(Vector sum, const float* weight, const float* input) {
#if defined(__AVX512F__)
        return reinterpret_cast<Vector>(_mm512_fmadd_ps(
            reinterpret_cast<__m512>(load(weight)), _mm512_set1_ps(*input), reinterpret_cast<__m512>(sum)));
#elif defined(__FMA__)
        return reinterpret_cast<Vector>(_mm256_fmadd_ps(
            reinterpret_cast<__m256>(load(weight)), _mm256_set1_ps(*input), reinterpret_cast<__m256>(sum)));
#else
        return sum + load(weight) * *input;
#endif
    }
    static INLINE Vector wide(const float* from) { return load(from); }
    static INLINE void pair(const float* first, const float*, float* to) { store(to, load(first)); }
    static INLINE void pair(Vector first, Vector, float* to) { store(to, first); }
};

#if defined(__AVX512BF16__)
struct bfloat16 {
    uint16_t bits;
};

INLINE void store(bfloat16* to, Vector value) {
    __m256bh narrow = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(value));
    std::memcpy(to, &narrow, sizeof narrow);
}

#if defined(__AVX512VNNI__)
struct Byte {
    int8_t bits;  // of weights; inputs are unsigned, 128 more than they stand for
};

template <> struct Kind<Byte> {
    static constexpr long PAIR = 4;
    static INLINE Vector add(Vector sum, const Byte* weight, const Byte* input) {  // the lanes are whole numbers
        int32_t four;
        std::memcpy(&four, input, sizeof four);
        __m512i inputs = _mm512_set1_epi32(four), weights = _mm512_loadu_si512(weight);
        return reinterpret_cast<Vector>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), inputs, weights));
    }
};
#endif

template <> struct Kind<bfloat16> {
    static constexpr long PAIR = 2;
#if defined(__AVX512VNNI__)
    typedef Byte Heavy;
#else
    typedef bfloat16 Heavy;
#endif
    static INLINE Vector add(Vector sum, const bfloat16* weight, const bfloat16* input) {
        int32_t two;
        std::memcpy(&two, input, sizeof two);
        auto one = reinterpret_cast<__m512bh>(_mm512_loadu_si512(weight));
        auto other = reinterpret_cast<__m512bh>(_mm512_set1_epi32(two));
        return reinterpret_cast<Vector>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), one, other));
    }
    static INLINE Vector wide(const bfloat16* from) {
        __m256i narrow;
        std::memcpy(&narrow, from, sizeof narrow);
        return reinterpret_cast<Vector>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
    }
    static INLINE void pair(const bfloat16* first, const bfloat16* second, bfloat16* to) {
        __m256i one, other;
        std::memcpy(&one, first, sizeof one);
        std::memcpy(&other, second, sizeof other);
        __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(other), 16);
        _mm512_storeu_si512(to, _mm512_or_si512(_mm512_cvtepu16_epi32(one), high));
    }
    static INLINE void pair(Vector first, Vector second, bfloat16* to) {
        bfloat16 one[LANES], other[LANES];
        store(one, first);
        store(other, second);
        pair(one, other, to);
    }
};
#endif

// `count` values, at most LANES of them.
template <class T> INLINE void store_some(T* to, Vector value, long count) {
    if (count >= LANES) return store(to, value);
    T whole[LANES];
    store(whole, value);
    std::memcpy(to, whole, count * sizeof(T));
}

INLINE float total(Vector v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(reinterpret_cast<__m512>(v));
#else
    float sum = 0;
    for (long i = 0; i < LANES; ++i) sum += v[i];
    return sum;
#endif
}

INLINE Vector exponential(Vector x) {  // to a few units in the last place, for x up to 88
    x = x < -87.0f ? all(-87.0f) : x;
    Whole power = nearest(x * 1.44269504f);
    Vector n = __builtin_convertvector(power, Vector);
    Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Vector y = all(1.9875691500e-4f) * r + 1.3981999507e-3f;
    y = ((y * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r + 1.6666665459e-1f;
    y = (y * r + 5.0000001201e-1f) * r * r + r + 1.0f;
    return y * reinterpret_cast<Vector>((power + 127) << 23);
}

INLINE Vector silu(Vector x) { return x / (1.0f + exponential(-most(x, all(-80.0f)))); }

INLINE long whole(long count, long unit) { return (count + unit - 1) / unit * unit; }

// A linear layer: weights [outputs / LANES, inputs / PAIR, LANES, PAIR], filled up with zeros; a bias, or none. Where
// they are bytes, one unit of each output, and what it has too much because inputs are 128 more than they stand for.
struct Linear {
    const void* weight;
    const float *bias, *unit;
    const int32_t* surplus;
    long inputs, outputs;
};

// The rows that a product is taken of: `segments` stretches of the inputs, each `segment` elements after the last.
template <class T> struct Rows {
    const T* data;
    long count, stride;
    long segments = 1, segment = 0;
    long step = Kind<T>::PAIR;  // from one pair of inputs to the next
    const float* unit = nullptr;  // of each row, where inputs are bytes
};

// The rows as bytes, each with a unit of its own; of wider types as they are. `count` is a multiple of LANES.
template <class From, class To> INLINE void narrowed(const From* from, long count, To* to, float*) {
    for (long i = 0; i < count; i += LANES) store(to + i, Kind<From>::wide(from + i));
}

template <class T> INLINE Vector output(Vector sum, const Rows<T>&, long, const Linear& w, long column) {
    return w.bias ? sum + load(w.bias + column) : sum;
}

#if defined(__AVX512VNNI__) && defined(__AVX512BF16__)
template <class From> INLINE void narrowed(const From* from, long count, Byte* to, float* unit) {
    Vector top{};
    for (long i = 0; i < count; i += LANES) {
        Vector x = Kind<From>::wide(from + i);
        top = most(top, most(x, -x));
    }
    const float largest = _mm512_reduce_max_ps(reinterpret_cast<__m512>(top));
    *unit = largest / 127;
    const float by = largest > 0 ? 127 / largest : 0;
    for (long i = 0; i < count; i += LANES) {
        Whole rounded = nearest(Kind<From>::wide(from + i) * by) + 128;
        __m128i bytes = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(rounded));
        std::memcpy(to + i, &bytes, sizeof bytes);
    }
}

INLINE Vector output(Vector sum, const Rows<Byte>& a, long row, const Linear& w, long column) {
    Whole surplus;
    std::memcpy(&surplus, w.surplus + column, sizeof surplus);
    Vector exact = __builtin_convertvector(reinterpret_cast<Whole>(sum) - surplus, Vector);
    return exact * load(w.unit + column) * a.unit[row] + load(w.bias + column);
}
#endif

template <class T, int M, int N>
__attribute__((noinline)) void
tile(const Rows<T>& a, const T* data, const T* weight, long panel, long inputs, float* out) {
    constexpr long PAIR = Kind<T>::PAIR;
    Vector sums[M][N];
    UNROLL for (int m = 0; m < M; ++m) {
        UNROLL for (int n = 0; n < N; ++n) sums[m][n] = Vector{};
    }
    for (long s = 0; s < a.segments; ++s) {
        const T* input = data + s * a.segment;
        for (long k = 0; k < inputs; k += PAIR) {
            UNROLL for (int m = 0; m < M; ++m) {
                UNROLL for (int n = 0; n < N; ++n) {
                    sums[m][n] = Kind<T>::add(sums[m][n], weight + n * panel, input + m * a.stride);
                }
            }
            weight += LANES * PAIR;
            input += a.step;
        }
    }
    UNROLL for (int m = 0; m < M; ++m) {
        UNROLL for (int n = 0; n < N; ++n) store(out + (m * N + n) * LANES, sums[m][n]);
    }
}

template <class T, int M, int N, class Out>
INLINE void strips(const Rows<T>& a, long& row, const Linear& w, long panel, Out& out) {
    alignas(64) float sums[M * N * LANES];
    const long inputs = w.inputs / a.segments, size = w.inputs * LANES;
    for (; row + M <= a.count; row += M) {
        tile<T, M, N>(a, a.data + row * a.stride, static_cast<const T*>(w.weight) + panel * size, size, inputs, sums);
        for (int m = 0; m < M; ++m) {
            for (int n = 0; n < N; ++n) {
                long column = (panel + n) * LANES;
                out(row + m, column, output(load(sums + (m * N + n) * LANES), a, row + m, w, column));
            }
        }
    }
    if constexpr (M > 1) strips<T, M / 2, N>(a, row, w, panel, out);
}

// Calls out(row, column, values) for all rows and the outputs of the panels from `first` to `last`.
template <class T, class Out> void product(const Rows<T>& a, const Linear& w, long first, long last, Out out) {
    for (long panel = first, row = 0; panel < last; row = 0) {
        const long left = last - panel, wide = left >= 4 && a.count <= 2 ? 4 : left == 4 ? 2 : std::min(left, 3L);
        if (wide == 4) strips<T, 2, 4>(a, row, w, panel, out);
        else if (wide == 3) strips<T, ROWS, 3>(a, row, w, panel, out);
        else if (wide == 2) strips<T, ROWS, 2>(a, row, w, panel, out);
        else strips<T, 2 * ROWS, 1>(a, row, w, panel, out);
        panel += wide;
    }
}

// Threads that work on the same rows. Each takes its share of every loop, and they wait for each other in between.
struct Meeting {
    std::atomic<long> arrived{0}, turn{0};
};

struct Team {
    long size, member, place, thread;  // members, which one this is; number of the team, and of this thread
    Meeting* meeting;

    void wait() const {
        if (size == 1) return;
        long turn = meeting->turn.load(std::memory_order_acquire);
        if (meeting->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
            meeting->arrived.store(0, std::memory_order_relaxed);
            meeting->turn.store(turn + 1, std::memory_order_release);
            return;
        }
        for (long spins = 0; meeting->turn.load(std::memory_order_acquire) == turn; ++spins) {
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
            if (spins > 2000) std::this_thread::yield();
        }
    }

    // This member's share of `count` things.
    long begin(long count) const { return count * member / size; }
    long end(long count) const { return count * (member + 1) / size; }
};

template <class T, class Out> void product(const Team& team, const Rows<T>& a, const Linear& w, Out out) {
    long panels = w.outputs / LANES;
    product(a, w, team.begin(panels), team.end(panels), out);
}

constexpr long MEMBERS = 8;  // with more the shares of a product become too small

// Calls work(team, first, last) for worlds from `first` to `last`, until all `count` are done: in groups of up to
// `most` worlds, with as many teams as there are groups and threads.
template <class Work> void share(long count, long most, int threads, Work work) {
    long size = std::clamp((count + threads - 1) / threads, 1L, most), groups = (count + size - 1) / size;
    std::vector<Meeting> meetings(threads);
#pragma omp parallel num_threads(threads)
    {
        long all = omp_get_num_threads(), me = omp_get_thread_num();
        long teams = std::min(groups, all), each = std::min(all / teams, MEMBERS), place = me / each;
        if (place < teams) {
            Team team{each, me % each, place, me, &meetings[place]};
            for (long group = place; group < groups; group += teams) {
                work(team, group * size, std::min(count, (group + 1) * size));
                team.wait();
            }
        }
    }
}
