// The step of worlds: what drivedit.models.World.dream computes, in one call.

#include "attention.h"

namespace {

// Where the outputs of a product go: stored, stored as SiLU of them, or added to what is there.
template <class To> auto into(To* to, long stride) {
    return [=](long row, long column, Vector y) { store(to + row * stride + column, y); };
}

template <class To> auto active(To* to, long stride) {
    return [=](long row, long column, Vector y) { store(to + row * stride + column, silu(y)); };
}

inline auto onto(float* to, long stride) {
    return [=](long row, long column, Vector y) {
        float* place = to + row * stride + column;
        store(place, load(place) + y);
    };
}

template <class T> class Step {
public:
    Step(const Model& model, const State& state, const Output& out, const float* noise, const float* controls,
         long worlds)
        : m(model), state(state), out(out), noise(noise), controls(controls), worlds(worlds) {}

    // One frame of the worlds from `first` to `last`.
    void run(const Team& team, Arena arena, Arena own, long first, long last) {
        Scratch<T> s(m, arena, own);
        const long n = last - first;
        tell(team, s, first, n);
        for (long pass = 0; pass < m.passes; ++pass) {
            embed(team, s, n, pass);
            for (long layer = 0; layer < m.layers; ++layer) block(team, s, first, n, layer);
            read(team, s, first, n, pass);
        }
        if (team.member == 0) {
            for (long i = 0; i < n; ++i) finish(s, first + i, i);
        }
    }

private:
    const Model& m;
    const State& state;
    const Output& out;
    const float *noise, *controls;
    const long worlds;

    static Rows<T> rows(const T* data, long count, long stride) { return {data, count, stride}; }

    static Rows<typename Kind<T>::Heavy> heavy(const Scratch<T>& s, long count, long stride) {
        return {s.heavy, count, stride, 1, 0, Kind<typename Kind<T>::Heavy>::PAIR, s.unit};
    }

    Route route(long b) const {
        return {state.points + 2 * state.route_width * b, state.count[b], state.spacing[b],
                state.closed[b] != 0, state.bounds + 4 * b};
    }

    Motion scaled(const float* motion) const {
        return {motion[0] * m.motion_scale[0], motion[1] * m.motion_scale[1], motion[2] * m.motion_scale[2]};
    }

    // Where the values of a token lie in a latent: [channels, rows, columns] in squares of patch x patch.
    template <class Visit> void cells(long token, Visit visit) const {
        long across = m.columns / m.patch, top = token / across * m.patch, left = token % across * m.patch, value = 0;
        for (long c = 0; c < m.channels; ++c) {
            for (long y = 0; y < m.patch; ++y) {
                for (long x = 0; x < m.patch; ++x) visit(value++, (c * m.rows + top + y) * m.columns + left + x);
            }
        }
    }

    // What all passes are told: controls, route and map, and the frames before.
    void tell(const Team& team, Scratch<T>& s, long first, long n) {
        const long size = m.channels * m.rows * m.columns, places = m.coder.cell_count / m.tokens;
        const long flat = m.coder.offset_count ? 4 * m.coder.offset_count + 1 + 4 * (m.coder.bounds_reach > 0) : 0;
        for (long i = team.begin(n); i < team.end(n); ++i) {
            const long b = first + i;
            const float* motion = state.motion + 3 * b;
            const long width = m.actions;
            float driven[DRIVEN];
            std::copy(controls + width * b, controls + width * (b + 1), driven);
            std::copy(state.control + width * b, state.control + width * (b + 1), driven + width);
            std::copy(motion, motion + 3, driven + 2 * width);
            convert(driven, m.controls, s.told + i * m.control1.inputs);
            if (m.coder.offset_count) {
                const float* pose = state.pose + 3 * b;
                Pose there = advance({pose[0], pose[1], pose[2]}, scaled(motion));
                float* code = s.code + i * s.code_width;
                route(b).code(m.coder, there, state.arc[b], code);
                convert(code, flat, s.codes + i * s.code_width);
                const float told = state.told[b];
                if (m.layout) convert(&told, 1, s.codes + i * s.code_width + flat);
                for (long t = 0; t < m.tokens && places; ++t) {
                    T* mapped = s.mapped + (i * m.tokens + t) * m.map1.inputs;
                    convert(code + flat + t * places, places, mapped);
                    convert(state.layout + (b * m.tokens + t) * m.layout, m.layout, mapped + places);
                }
            }
            std::copy(noise + b * size, noise + (b + 1) * size, s.latent + i * size);
            const long half = m.width / m.heads / 2;
            for (long j = 0; j < half; ++j) {
                s.turn[2 * i * half + j] = std::cos(state.clock[b] * m.turns[j]);
                s.turn[(2 * i + 1) * half + j] = std::sin(state.clock[b] * m.turns[j]);
            }
        }
        for (long row = team.begin(n * m.tokens); row < team.end(n * m.tokens); ++row) {
            const float* past = state.latents + (first + row / m.tokens) * m.history * size;
            for (long lag = 0; lag < m.history; ++lag) {
                float values[m.depth + LANES];
                cells(row % m.tokens, [&](long value, long cell) { values[value] = past[lag * size + cell]; });
                convert(values, m.depth, s.tokens + row * m.embed.inputs + (lag + 1) * m.depth);
            }
        }
        const long wide = s.wide;
        if (team.member == 0) std::fill(s.condition, s.condition + n * wide, 0.0f);
        team.wait();
        if (m.controls) {
            product(team, rows(s.told, n, m.control1.inputs), m.control1, active(s.narrow, wide));
            team.wait();
            product(team, rows(s.narrow, n, wide), m.control2, onto(s.condition, wide));
            team.wait();
        }
        if (m.coder.offset_count) {
            product(team, rows(s.codes, n, s.code_width), m.route1, active(s.narrow, wide));
            team.wait();
            product(team, rows(s.narrow, n, wide), m.route2, onto(s.condition, wide));
            team.wait();
        }
    }

    // The first hidden tokens of a pass, and its modulations.
    void embed(const Team& team, Scratch<T>& s, long n, long pass) {
        const long size = m.channels * m.rows * m.columns, wide = s.wide, count = n * m.tokens;
        for (long row = team.begin(count); row < team.end(count); ++row) {
            const float* latent = s.latent + row / m.tokens * size;
            float values[m.depth + LANES];
            cells(row % m.tokens, [&](long value, long cell) { values[value] = latent[cell]; });
            convert(values, m.depth, s.tokens + row * m.embed.inputs);
        }
        const bool mapped = m.map1.weight != nullptr;
        if (mapped) product(team, rows(s.mapped, count, m.map1.inputs), m.map1, active(s.middle, wide));
        team.wait();
        product(team, rows(s.tokens, count, m.embed.inputs), m.embed, [&](long row, long column, Vector y) {
            store(s.x + row * wide + column, y + load(m.position + row % m.tokens * wide + column));
        });
        if (mapped) product(team, rows(s.middle, count, wide), m.map2, onto(s.x, wide));
        for (long i = team.begin(n); i < team.end(n); ++i) {
            float told[wide];
            for (long j = 0; j < wide; j += LANES) {
                store(told + j, silu(load(s.condition + i * wide + j) + load(m.sigma + pass * wide + j)));
            }
            narrowed(told, wide, s.heavy + i * wide, s.unit + i);
        }
        team.wait();
        product(team, heavy(s, n, wide), m.modulation, into(s.modulation, m.modulation.outputs));
        team.wait();
    }

    const float* modulation(const Scratch<T>& s, long row, long part) const {
        return s.modulation + row / m.tokens * m.modulation.outputs + part * m.width;
    }

    // The norm of a row under the scale and the shift of its world.
    template <class To> void modulated(const Scratch<T>& s, long row, long part, To* to) const {
        const float *scale = modulation(s, row, part), *shift = modulation(s, row, part + 1);
        normed(s.x + row * s.wide, m.width, to, scale, shift);
    }

    void block(const Team& team, Scratch<T>& s, long first, long n, long layer) {
        const Linear* linear = m.blocks + 4 * layer;
        const long count = n * m.tokens, wide = s.wide;
        auto norms = [&](long part) {
            for (long row = team.begin(count); row < team.end(count); ++row) {
                float y[wide] = {};
                modulated(s, row, part, y);
                narrowed(y, wide, s.heavy + row * wide, s.unit + row);
            }
            team.wait();
        };
        auto gated = [&](long part) {
            return [&, part](long row, long column, Vector y) {
                float* to = s.x + row * wide + column;
                y = load(to) + y * load(modulation(s, row, part) + column);
                store_some(to, y, std::min(LANES, m.width - column));
            };
        };
        norms(6 * layer);
        product(team, heavy(s, count, wide), linear[0], into(s.qkv, linear[0].outputs));
        team.wait();
        for (long i = team.begin(n * m.heads); i < team.end(n * m.heads); ++i) {
            attend(m, state, s, worlds, first + i / m.heads, i / m.heads, i % m.heads, layer);
        }
        team.wait();
        product(team, rows(s.narrow, count, wide), linear[1], gated(6 * layer + 2));
        team.wait();
        norms(6 * layer + 3);
        product(team, heavy(s, count, wide), linear[2], [&](long row, long column, Vector y) {
            y = positive(y);
            store(s.hidden + row * s.inner + column, y * y);
        });
        team.wait();
        for (long row = team.begin(count); row < team.end(count); ++row) {
            narrowed(s.hidden + row * s.inner, s.inner, s.heavy + row * s.inner, s.unit + row);
        }
        team.wait();
        product(team, heavy(s, count, s.inner), linear[3], gated(6 * layer + 5));
        team.wait();
    }

    // The clean estimate of a pass, from which the next begins, and in the last one what the heads read.
    void read(const Team& team, Scratch<T>& s, long first, long n, long pass) {
        const long count = n * m.tokens, wide = s.wide, size = m.channels * m.rows * m.columns;
        const bool last = pass == m.passes - 1;
        for (long row = team.begin(count); row < team.end(count); ++row) {
            modulated(s, row, 6 * m.layers, s.narrow + row * wide);
            if (last) normed(s.x + row * wide, m.width, s.middle + row * wide);
        }
        team.wait();
        product(team, rows(s.narrow, count, wide), m.head, into(s.clean, m.head.outputs));
        const long flat = m.read1.inputs, each = m.squeeze.outputs;
        if (last) {
            product(team, rows(s.middle, count, wide), m.squeeze, [&](long row, long column, Vector y) {
                store(s.flat + row / m.tokens * flat + row % m.tokens * each + column, y);
            });
        }
        team.wait();
        const float sigma = m.levels[2 * pass], by = m.levels[2 * pass + 1] / sigma;
        for (long row = team.begin(count); row < team.end(count) && sigma > 0; ++row) {
            float* latent = s.latent + row / m.tokens * size;
            const float* estimate = s.clean + row * m.head.outputs;
            const float* past = state.latents + (first + row / m.tokens) * m.history * size;
            cells(row % m.tokens, [&](long value, long cell) {
                float clean = estimate[value] + (m.history ? past[cell] : 0);
                latent[cell] = clean + by * (latent[cell] - clean);
            });
        }
        if (last) {
            product(team, rows(s.flat, n, flat), m.read1, active(s.narrow, wide));
            team.wait();
            product(team, rows(s.narrow, n, wide), m.read2, into(s.readings, m.read2.outputs));
        }
        team.wait();
    }

    // The state and the output of world b after its last pass.
    void finish(const Scratch<T>& s, long b, long i) {
        const long size = m.channels * m.rows * m.columns;
        const float *readings = s.readings + i * m.read2.outputs, *told = readings + 3;
        const float* rest = told + std::max(m.telemetry, 1L);
        const long kept = std::max(m.history, 1L);  // latents of a state: the last one is what is seen
        const float *latent = s.latent + i * size, *before = state.latents + b * kept * size;
        float *latents = out.latents + b * kept * size, *pose = state.pose + 3 * b;
        std::copy(latent, latent + size, latents);
        std::copy(before, before + (kept - 1) * size, latents + size);
        std::copy(controls + m.actions * b, controls + m.actions * (b + 1), state.control + m.actions * b);
        std::copy(readings, readings + 3, state.motion + 3 * b);
        Pose there = advance({pose[0], pose[1], pose[2]}, scaled(readings));
        pose[0] = there.x, pose[1] = there.y, pose[2] = there.yaw;
        state.arc[b] = route(b).foot({there.x, there.y}, state.arc[b]);
        state.clock[b] += 1;
        for (long j = 0; j < m.telemetry; ++j) out.telemetry[b * m.telemetry + j] = told[j] * m.telemetry_scale[j];
        float* column = out.columns + b;
        float probability = 1 / (1 + std::exp(-static_cast<double>(rest[m.rewards])));
        bool ended = out.ended[b] = probability > m.end_threshold;
        float error = (rest[m.rewards + 1] - m.least_error) / (m.most_error - m.least_error);
        column[0] = probability;
        column[worlds] = 1 - std::clamp(error, 0.0f, 1.0f);
        for (long term = 0; term < m.terms; ++term) {
            const long from = m.source[term];
            float value = from < 0 ? 0 : from < m.telemetry ? out.telemetry[b * m.telemetry + from] : rest[from - m.telemetry];
            column[(2 + term) * worlds] = value * m.unit[term] + m.each_step[term] + ended * m.at_end[term];
        }
    }
};

// Bytes that a team needs, and each of its members.
template <class T> std::pair<long, long> memory_of(const Model& model) {
    Arena arena{nullptr}, own{nullptr};
    Scratch<T>(model, arena, own);
    return {arena.used, own.used};
}

template <class T>
void step(const Model& model, const State& state, const Output& out, const float* noise, const float* controls,
          long worlds, int threads, char* memory) {
    Step<T> run(model, state, out, noise, controls, worlds);
    const auto [each, own] = memory_of<T>(model);
    share(worlds, GROUP, threads, [&, each = each, own = own](const Team& team, long first, long last) {
        run.run(team, {memory + team.place * each}, {memory + threads * each + team.thread * own}, first, last);
    });
}

}  // namespace

extern "C" {

long lanes() { return LANES; }

// Whether the layers with many weights of worlds in bfloat16 are made of bytes.
long heavy_bytes() {
#if defined(__AVX512BF16__)
    return sizeof(Kind<bfloat16>::Heavy) == 1;
#else
    return 0;
#endif
}

// Bytes of the structures that are handed over; `decoder_sizes` says those of a decoder.
void step_sizes(long* sizes) {
    for (long size : {sizeof(Linear), sizeof(Coder), sizeof(Model), sizeof(State), sizeof(Output)}) *sizes++ = size;
}

// Bytes of zeros that `step` needs to write on.
long step_memory(const Model* model, int threads) {
    const auto [each, own] = memory_of<float>(*model);
    return threads * (each + own);
}

void step_float(const Model* model, const State* state, const Output* out, const float* noise, const float* controls,
                long worlds, int threads, char* memory) {
    step<float>(*model, *state, *out, noise, controls, worlds, threads, memory);
}

#if defined(__AVX512BF16__)
void step_bfloat16(const Model* model, const State* state, const Output* out, const float* noise, const float* controls,
                   long worlds, int threads, char* memory) {
    step<bfloat16>(*model, *state, *out, noise, controls, worlds, threads, memory);
}
#endif
}
