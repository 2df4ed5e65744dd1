// A world, its states and what a step of it writes on, as drivedit.inference.native hands them over.

#pragma once

#include "route.h"

// The networks and the settings of a world.
struct Model {
    long layers, width, heads, tokens, depth, history, capacity;
    long controls, actions, channels, rows, columns, patch, telemetry, rewards, passes, terms, layout;
    Coder coder;
    Linear embed, control1, control2, route1, route2, map1, map2, modulation, squeeze, read1, read2, head;
    const Linear* blocks;                // [layers, 4]: qkv, out, up, down
    const float *position, *sigma;       // [tokens, width], [passes, width]
    const float* levels;                 // [passes, 2]: noise level of a pass, and the next one
    const double* turns;                 // [width / heads / 2] angles of rotary positions from frame to frame
    const float *motion_scale, *telemetry_scale;
    const float *unit, *each_step, *at_end;  // [terms] of the reward
    const int64_t* source;               // [terms]: a telemetry value, after them a learned reward, or -1
    float end_threshold, least_error, most_error;
};

// States of worlds, as drivedit.models.WorldState; all but `latents` are written in place.
struct State {
    void *k, *v;
    int64_t* clock;
    const float* latents;
    float *control, *motion, *pose, *arc;
    const float* points;
    const int64_t* count;
    const float* spacing;
    const uint8_t* closed;  // 0: no
    const float* bounds;
    const uint8_t* told;    // of others, 0: no
    const float* layout;    // [worlds, tokens, Model::layout] what is told of them
    long route_width;
};

// What a step gives, for `worlds` worlds.
struct Output {
    float* latents;           // [worlds, history, channels, rows, columns], the latest first
    float* telemetry;         // [worlds, telemetry]
    float* columns;           // [2 + terms, worlds]: probability of the end, confidence, terms of the reward
    bool* ended;
};

constexpr long GROUP = 8;   // worlds whose weights are read together
constexpr long DRIVEN = 2 * 64 + 3;  // most that is told of driving: controls, those before, ego-motion

// Hands out memory in pieces; without memory it counts.
struct Arena {
    char* memory;
    long used = 0;

    template <class T> T* take(long count) {
        T* piece = reinterpret_cast<T*>(memory + used);
        used += whole(count * sizeof(T), 64);
        return piece;
    }
};

// What a team writes on. The inputs of products are filled up with zeros, which stay.
template <class T> struct Scratch {
    long wide, inner, code_width;  // of rows
    float *x, *qkv, *modulation, *condition, *clean, *code, *scores, *readings, *latent, *turn;
    typename Kind<T>::Heavy* heavy;
    float* unit;  // of each row of `heavy`
    T *tokens, *narrow, *middle, *hidden, *codes, *mapped, *told, *flat, *query, *share, *values, *none;

    // `own` is what each member has for itself.
    Scratch(const Model& m, Arena& arena, Arena& own) {
        long keys = whole(m.capacity * m.tokens, 2), head = whole(m.width / m.heads, LANES);
        long lanes = whole(m.tokens, LANES);
        long rows = GROUP * m.tokens;
        wide = whole(m.width, 32), inner = m.blocks[3].inputs;
        code_width = whole(4 * m.coder.offset_count + 6 + m.coder.cell_count, 32);
        x = arena.take<float>(rows * wide);
        qkv = arena.take<float>(rows * m.blocks[0].outputs);
        modulation = arena.take<float>(GROUP * m.modulation.outputs);
        condition = arena.take<float>(GROUP * wide);
        clean = arena.take<float>(rows * m.head.outputs);
        latent = arena.take<float>(rows * m.depth);
        turn = arena.take<float>(GROUP * m.width / m.heads);
        code = arena.take<float>(GROUP * code_width);
        readings = arena.take<float>(GROUP * m.read2.outputs);
        tokens = arena.take<T>(rows * m.embed.inputs);
        narrow = arena.take<T>(rows * wide);
        middle = arena.take<T>(rows * wide);
        hidden = arena.take<T>(rows * inner);
        heavy = arena.take<typename Kind<T>::Heavy>(rows * std::max(wide, inner));
        unit = arena.take<float>(rows);
        codes = arena.take<T>(GROUP * code_width);
        mapped = arena.take<T>(rows * m.map1.inputs);
        told = arena.take<T>(GROUP * m.control1.inputs);
        flat = arena.take<T>(GROUP * m.read1.inputs);
        none = arena.take<T>(head);
        scores = own.take<float>(keys * lanes);
        query = own.take<T>(lanes * head * 2);
        share = own.take<T>(keys * lanes);
        values = own.take<T>(keys * head);
    }
};
