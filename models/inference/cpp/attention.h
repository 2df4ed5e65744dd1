// Norms, and attention of one frame to the ring of the frames before it.

#pragma once

#include "world.h"

constexpr float EPSILON = 1e-5f;  // of layer norms

// Mean and one over the deviation of a row.
INLINE void moments(const float* x, long count, float& mean, float& scale) {
    Vector sum{}, squares{};
    float rest = 0;
    long i = 0;
    for (; i + LANES <= count; i += LANES) sum += load(x + i);
    for (; i < count; ++i) rest += x[i];
    mean = (total(sum) + rest) / count;
    for (i = 0, rest = 0; i + LANES <= count; i += LANES) squares += (load(x + i) - mean) * (load(x + i) - mean);
    for (; i < count; ++i) rest += (x[i] - mean) * (x[i] - mean);
    scale = 1 / std::sqrt((total(squares) + rest) / count + EPSILON);
}

// Layer norm of a row, then scaled and shifted (or not).
template <class T>
INLINE void normed(const float* x, long count, T* out, const float* scale = nullptr, const float* shift = nullptr) {
    float mean, by;
    moments(x, count, mean, by);
    for (long i = 0; i < count; i += LANES) {
        Vector y = (load(x + i) - mean) * by;
        if (scale) y = y * load(scale + i) + load(shift + i);
        store_some(out + i, y, std::min(LANES, count - i));
    }
}

// Writes floats as the inputs of products.
template <class T> INLINE void convert(const float* from, long count, T* to) {
    long i = 0;
    for (; i + LANES <= count; i += LANES) store(to + i, load(from + i));
    if (i < count) {
        float rest[LANES] = {};
        std::memcpy(rest, from + i, (count - i) * sizeof(float));
        store_some(to + i, load(rest), count - i);
    }
}

// Turns the first half of a query or key against the second (rotary positions).
INLINE void turn(float* x, long half, const float* cos, const float* sin) {
    for (long j = 0; j < half; ++j) {
        float first = x[j], second = x[j + half];
        x[j] = first * cos[j] - second * sin[j];
        x[j + half] = second * cos[j] + first * sin[j];
    }
}

// Attention of one head of world `b`, the i-th of its group, to the ring of its frames, into which its own keys and
// values go. The result lies in `narrow`.
template <class T>
void attend(const Model& m, const State& state, Scratch<T>& s, long worlds, long b, long i, long head, long layer) {
    constexpr long PAIR = Kind<T>::PAIR;
    const long size = m.width / m.heads, joined = m.blocks[0].outputs, lanes = whole(m.tokens, LANES);
    const long frames = std::min<long>(state.clock[b] + 1, m.capacity), slot = state.clock[b] % m.capacity * m.tokens;
    const long keys = frames * m.tokens, even = whole(keys, PAIR);
    const long ring = ((layer * worlds + b) * m.heads + head) * m.capacity * m.tokens * size;
    T *k = static_cast<T*>(state.k) + ring, *v = static_cast<T*>(state.v) + ring;
    const float *cos = s.turn + i * size, *sin = cos + size / 2;

    for (long t = 0; t < m.tokens; ++t) {
        const float* from = s.qkv + (i * m.tokens + t) * joined + head * size;
        float x[size + LANES];
        T query[size];
        normed(from, size, x);
        turn(x, size / 2, cos, sin);
        convert(x, size, query);
        T* to = s.query + t / LANES * size * LANES + t % LANES * PAIR;
        for (long j = 0; j < size; j += PAIR) std::memcpy(to + j * LANES, query + j, PAIR * sizeof(T));
        normed(from + m.width, size, x);
        turn(x, size / 2, cos, sin);
        convert(x, size, k + (slot + t) * size);
        convert(from + 2 * m.width, size, v + (slot + t) * size);
    }

    // Scores [keys, queries]: a softmax over keys then goes over rows, for all queries at once.
    product(Rows<T>{k, keys, size}, Linear{s.query, nullptr, nullptr, nullptr, size, lanes}, 0, lanes / LANES,
            [&](long row, long column, Vector y) { store(s.scores + row * lanes + column, y); });
    const float scale = 1 / std::sqrt(static_cast<float>(size));
    float over[lanes];
    for (long lane = 0; lane < lanes; lane += LANES) {
        float* score = s.scores + lane;
        Vector top = load(score), sum{};
        for (long key = 1; key < keys; ++key) top = most(top, load(score + key * lanes));
        for (long key = 0; key < keys; ++key) {
            Vector y = exponential((load(score + key * lanes) - top) * scale);
            sum += y;
            store(score + key * lanes, y);
        }
        for (long key = keys; key < even; ++key) store(score + key * lanes, Vector{});
        store(over + lane, 1.0f / sum);
    }

    // Shares [keys / PAIR, queries, PAIR] of values [size / LANES, keys / PAIR, LANES, PAIR].
    for (long key = 0; key < even; key += PAIR) {
        const float *score = s.scores + key * lanes, *after = score + (PAIR - 1) * lanes;
        for (long q = 0; q < lanes; q += LANES) {
            Kind<T>::pair(load(score + q), load(after + q), s.share + key * lanes + q * PAIR);
        }
        const T *value = v + key * size, *next = key + PAIR > keys ? s.none : value + (PAIR - 1) * size;
        for (long j = 0; j < size; j += LANES) {
            T* to = s.values + (j / LANES * even + key) * LANES;
            if (j + LANES <= size) {
                Kind<T>::pair(value + j, next + j, to);
            } else {
                for (long l = 0; j + l < size; ++l) to[l * PAIR] = value[j + l], to[l * PAIR + PAIR - 1] = next[j + l];
            }
        }
    }
    const long wide = whole(size, LANES);
    const Rows<T> shares{s.share, m.tokens, PAIR, 1, 0, lanes * PAIR};
    product(shares, Linear{s.values, nullptr, nullptr, nullptr, even, wide}, 0, wide / LANES,
            [&](long row, long column, Vector y) {
                T* to = s.narrow + (i * m.tokens + row) * s.wide + head * size + column;
                store_some(to, y * over[row], std::min(LANES, size - column));
            });
}
