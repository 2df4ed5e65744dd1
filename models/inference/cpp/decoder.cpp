// The decoder of a world whose frames are coded one by one: latents to pictures, in one call.
//
// Pictures lie with their channels together, filled up to LANES. What a 3x3 convolution reads has a border of zeros.

#include "kernels.h"

// A layer, by what it reads and writes; drivedit.inference.native fills it in.
struct Layer {
    enum Kind : long { FIRST, INNER, OUTER, UP, FRAME } kind;
    long rows, columns, in, out;  // size of the picture that it reads; channels of a pixel there, and where it writes
    Linear weights;
};

struct Decoder {
    const Layer* layers;
    long count, channels, colours;  // layers; channels of a latent, colours of a pixel
    const float *mean, *deviation;  // [channels] of latents
};

namespace {

template <class T> class Picture {
public:
    Picture(const Decoder& decoder, char* memory, long place) : d(decoder) {
        long plain = 0, bordered = 0;
        for (long i = 0; i < d.count; ++i) {
            const Layer& layer = d.layers[i];
            long grown = layer.kind == Layer::UP ? 2 : 1, rows = grown * layer.rows, columns = grown * layer.columns;
            plain = std::max(plain, rows * columns * layer.out);
            bordered = std::max(bordered, (rows + 2) * (columns + 2) * std::max(layer.out, layer.in));
        }
        T* free = reinterpret_cast<T*>(memory) + place * (2 * plain + 3 * bordered);
        for (T** piece : {&now.plain, &next.plain}) *piece = free, free += plain;
        for (T** piece : {&now.positive, &next.positive, &inner}) *piece = free, free += bordered;
        size = 2 * plain + 3 * bordered;
    }

    long elements() const { return size; }

    void draw(const Team& team, const float* latent, uint8_t* frame) {
        read(team, latent);
        for (long i = 0; i < d.count; ++i) {
            const Layer& layer = d.layers[i];
            if (layer.kind == Layer::FRAME) paint(team, layer, frame);
            else if (layer.kind == Layer::UP) grow(team, layer);
            else convolve(team, layer);
            team.wait();
            if (layer.kind == Layer::FIRST || layer.kind == Layer::UP) std::swap(now, next);
        }
    }

private:
    const Decoder& d;
    struct {
        T *plain, *positive;  // as it is, and what of it is positive (with a border)
    } now, next;
    T* inner;
    long size;

    static T* pixel(T* bordered, const Layer& layer, long y, long x, long channels) {
        return bordered + ((y + 1) * (layer.columns + 2) + x + 1) * channels;
    }

    static void border(const Team& team, T* bordered, long rows, long columns, long channels) {
        const long line = (columns + 2) * channels;
        if (team.member == 0) {
            std::fill(bordered, bordered + line, T{});
            std::fill(bordered + (rows + 1) * line, bordered + (rows + 2) * line, T{});
        }
        for (long y = team.begin(rows) + 1; y <= team.end(rows); ++y) {
            std::fill(bordered + y * line, bordered + y * line + channels, T{});
            std::fill(bordered + (y + 1) * line - channels, bordered + (y + 1) * line, T{});
        }
    }

    void read(const Team& team, const float* latent) {
        const Layer& layer = d.layers[0];
        const long cells = layer.rows * layer.columns;
        border(team, now.positive, layer.rows, layer.columns, layer.in);
        for (long cell = team.begin(cells); cell < team.end(cells); ++cell) {
            T* to = pixel(now.positive, layer, cell / layer.columns, cell % layer.columns, layer.in);
            for (long c = 0; c < layer.in; c += LANES) {
                Vector values{};
                for (long i = c; i < std::min(c + LANES, d.channels); ++i) {
                    values[i - c] = latent[i * cells + cell] * d.deviation[i] + d.mean[i];
                }
                store(to + c, values);
            }
        }
        team.wait();
    }

    // The squares of `size` x `size` pixels in a row, each with its neighbours.
    Rows<T> around(T* bordered, const Layer& layer, long y, long size = 1) const {
        const long line = (layer.columns + 2) * layer.in;
        T* first = pixel(bordered, layer, size * y - 1, -1, layer.in);
        return {first, layer.columns / size, size * layer.in, size + 2, line};
    }

    template <class Out> void row(const Rows<T>& from, const Layer& layer, Out out) {
        product(from, layer.weights, 0, layer.weights.outputs / LANES, out);
    }

    void convolve(const Team& team, const Layer& layer) {
        const long width = layer.columns, out = layer.out;
        T* bordered = layer.kind == Layer::INNER ? inner : layer.kind == Layer::OUTER ? now.positive : next.positive;
        border(team, bordered, layer.rows, width, out);
        for (long y = team.begin(layer.rows); y < team.end(layer.rows); ++y) {
            T *first = pixel(bordered, layer, y, 0, out), *plain = next.plain + y * width * out;
            switch (layer.kind) {
            case Layer::FIRST:
                row(around(now.positive, layer, y), layer, [&](long x, long c, Vector value) {
                    store(plain + x * out + c, value);
                    store(first + x * out + c, positive(value));
                });
                break;
            case Layer::INNER:
                row(around(now.positive, layer, y), layer, [&](long x, long c, Vector value) {
                    store(first + x * out + c, positive(value));
                });
                break;
            default:
                plain = now.plain + y * width * out;
                row(around(inner, layer, y), layer, [&](long x, long c, Vector value) {
                    value += Kind<T>::wide(plain + x * out + c);
                    store(plain + x * out + c, value);
                    store(first + x * out + c, positive(value));
                });
            }
        }
    }

    // Every pixel becomes four.
    void grow(const Team& team, const Layer& layer) {
        const long width = 2 * layer.columns, out = layer.out, panels = layer.weights.outputs / LANES;
        long plain[panels], bordered[panels];  // where the outputs of a panel go
        for (long panel = 0; panel < panels; ++panel) {
            const long part = panel * LANES / out, channel = panel * LANES % out;
            plain[panel] = (part / 2 * width + part % 2) * out + channel;
            bordered[panel] = ((part / 2 + 1) * (width + 2) + part % 2 + 1) * out + channel;
        }
        border(team, next.positive, 2 * layer.rows, width, out);
        for (long y = team.begin(layer.rows); y < team.end(layer.rows); ++y) {
            Rows<T> pixels{now.plain + y * layer.columns * layer.in, layer.columns, layer.in};
            T *first = next.plain + 2 * y * width * out, *other = next.positive + 2 * y * (width + 2) * out;
            row(pixels, layer, [&](long x, long c, Vector value) {
                store(first + 2 * x * out + plain[c / LANES], value);
                store(other + 2 * x * out + bordered[c / LANES], positive(value));
            });
        }
    }

    // Squares of two by two pixels at once: each sees sixteen.
    void paint(const Team& team, const Layer& layer, uint8_t* frame) {
        const long line = 2 * d.colours, below = layer.columns * d.colours;
        for (long y = team.begin(layer.rows / 2); y < team.end(layer.rows / 2); ++y) {
            row(around(now.positive, layer, y, 2), layer, [&](long x, long c, Vector value) {
                Vector level = (value + 1.0f) * 127.5f;
                level = most(level, Vector{});
                level = level > 255.0f ? all(255.0f) : level;
                Whole rounded = nearest(level);
                uint8_t bytes[LANES], *to = frame + 2 * y * below + x * line;
                for (long i = 0; i < LANES; ++i) bytes[i] = rounded[i];
                for (long start : {0L, line}) {  // the upper pixels, then the lower ones
                    long from = std::max(c, start), until = std::min(c + LANES, start + line);
                    uint8_t* place = to + (start ? below : 0) + from - start;
                    if (from < until) std::memcpy(place, bytes + from - c, until - from);
                }
            });
        }
    }
};

template <class T>
void decode(const Decoder& decoder, const float* latents, long count, int threads, char* memory, uint8_t* frames) {
    const Layer &first = decoder.layers[0], &last = decoder.layers[decoder.count - 1];
    const long latent = decoder.channels * first.rows * first.columns;
    const long frame = last.rows * last.columns * decoder.colours;
    share(count, 1, threads, [&](const Team& team, long i, long) {
        Picture<T>(decoder, memory, team.place).draw(team, latents + i * latent, frames + i * frame);
    });
}

}  // namespace

extern "C" {

void decoder_sizes(long* sizes) {
    for (long size : {sizeof(Layer), sizeof(Decoder)}) *sizes++ = size;
}

// Bytes that `decode` needs to write on.
long decoder_memory(const Decoder* decoder, int threads) {
    return threads * sizeof(float) * Picture<float>(*decoder, nullptr, 0).elements();
}

void decode_float(const Decoder* decoder, const float* latents, long count, int threads, char* memory,
                  uint8_t* frames) {
    decode<float>(*decoder, latents, count, threads, memory, frames);
}

#if defined(__AVX512BF16__)
void decode_bfloat16(const Decoder* decoder, const float* latents, long count, int threads, char* memory,
                     uint8_t* frames) {
    decode<bfloat16>(*decoder, latents, count, threads, memory, frames);
}
#endif
}
