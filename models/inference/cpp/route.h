// The route as the network is told it: what drivedit.utils.route computes, for one world at a time.

#pragma once

#include "kernels.h"

constexpr float SPACING = 2.0f;  // metres that the foot point slides at most
constexpr long REACH = 12;       // points searched on either side of the last foot point

struct Point {
    float x, y;
};

struct Pose {
    float x, y, yaw;
};

struct Motion {
    float forward, right, turn;
};

// How a world is told its place; the arrays are those of `RouteCoder`.
struct Coder {
    const float *offsets, *arcs, *cells;  // [offsets], [arcs], [2, cells] of the map, right and forward
    long offset_count, arc_count, cell_count;
    float scale, half_width, bounds_reach;  // bounds_reach 0: the bounds are not told
};

inline Pose advance(Pose pose, Motion by) {
    float cos = std::cos(pose.yaw), sin = std::sin(pose.yaw);
    return {pose.x + by.forward * cos + by.right * sin, pose.y + by.forward * sin - by.right * cos, pose.yaw - by.turn};
}

// One row of `drivedit.utils.Route`.
struct Route {
    const float* points;
    long count;
    float spacing;
    bool closed;
    const float* bounds;

    Point point(long index) const { return {points[2 * index], points[2 * index + 1]}; }

    // The place at an arc length, and the direction there.
    void at(float s, Point& place, Point& tangent) const {
        long many = std::max(count, 2L);
        float position = s / spacing, low = std::floor(position);
        if (!closed) low = std::min(std::max(0.0f, low), static_cast<float>(many - 2));  // NaN becomes 0
        long first = std::fabs(low) < 1e15f ? static_cast<long>(low) : 0;
        if (closed) first = around(first, many);
        Point start = point(first), next = point(closed ? (first + 1) % many : first + 1);
        float fraction = position - low, dx = next.x - start.x, dy = next.y - start.y;
        float length = std::max(std::sqrt(dx * dx + dy * dy), 1e-12f);
        place = {start.x + fraction * dx, start.y + fraction * dy};
        tangent = {dx / length, dy / length};
    }

    // The foot point of a position, which moves on from `s`, or jumps when it is far and another stretch much nearer.
    float foot(Point to, float s) const {
        long many = std::max(count, 2L), position = std::fabs(s / spacing) < 1e6f ? std::lrint(s / spacing) : 0;
        long nearest = 0, local = 0;
        float least = INFINITY, distance = INFINITY;
        for (long i = 0; i < std::max(count, 1L); ++i) {
            float apart = square(to, i);
            if (apart < least) least = apart, nearest = i;
        }
        for (long i = position - REACH; i <= position + REACH; ++i) {
            long index = closed ? around(i, many) : std::min(std::max(i, 0L), many - 1);
            float apart = square(to, index);
            if (index < std::max(count, 1L) && apart < distance) distance = apart, local = index;
        }
        if (std::sqrt(distance) > 15 && std::sqrt(least) < 0.6f * std::sqrt(distance)) local = nearest;
        float arc = local * spacing;
        for (int i = 0; i < 2; ++i) {
            Point place, tangent;
            at(arc, place, tangent);
            float along = (to.x - place.x) * tangent.x + (to.y - place.y) * tangent.y;
            arc += std::min(std::max(along, -SPACING), SPACING);
        }
        return closed ? around(arc, std::max(count * spacing, SPACING)) : arc;
    }

    // The code of a pose at a foot point: the route around it, the bounds, the map.
    void code(const Coder& told, Pose pose, float s, float* out) const {
        Point ahead = {std::cos(pose.yaw), std::sin(pose.yaw)}, right = {ahead.y, -ahead.x}, place, tangent;
        const long n = told.offset_count;
        const float known = count > 0;
        at(s, place, tangent);
        float sign = dot(tangent, ahead) < 0 ? -1 : 1;
        for (long i = 0; i < n; ++i) {
            at(s + sign * told.offsets[i], place, tangent);
            Point delta = {(place.x - pose.x) / told.scale, (place.y - pose.y) / told.scale};
            float squash = known * 6 / std::sqrt(36 + dot(delta, delta));
            out[i] = dot(delta, right) * squash;
            out[n + i] = dot(delta, ahead) * squash;
            out[2 * n + i] = dot(tangent, right) * sign * known;
            out[3 * n + i] = dot(tangent, ahead) * sign * known;
        }
        out += 4 * n;
        *out++ = known;
        if (told.bounds_reach > 0) {
            edges(told.bounds_reach, pose, out);
            out += 4;
        }
        map(told, pose, s, ahead, right, out);
    }

private:
    static float dot(Point a, Point b) { return a.x * b.x + a.y * b.y; }
    static long around(long i, long many) { return (i % many + many) % many; }
    static float around(float arc, float length) {
        float rest = std::fmod(arc, length);
        return rest < 0 ? rest + length : rest;
    }

    float square(Point to, long index) const {
        Point p = point(index);
        return (p.x - to.x) * (p.x - to.x) + (p.y - to.y) * (p.y - to.y);
    }

    void edges(float reach, Pose pose, float* out) const {
        const float apart[4] = {pose.x - bounds[0], pose.y - bounds[1], bounds[2] - pose.x, bounds[3] - pose.y};
        const Point outward[4] = {{-1, 0}, {0, -1}, {1, 0}, {0, 1}};
        long edge = std::min_element(apart, apart + 4) - apart;
        float cos = std::cos(pose.yaw), sin = std::sin(pose.yaw), distance = apart[edge];
        float near = std::clamp(1 - distance / reach, 0.0f, 1.5f);
        out[0] = near * (outward[edge].x * sin - outward[edge].y * cos);
        out[1] = near * (outward[edge].x * cos + outward[edge].y * sin);
        out[2] = near;
        out[3] = std::clamp(1 - 8 * distance / reach, 0.0f, 2.0f);
    }

    // How far each cell of the picture is from the road, in half widths.
    void map(const Coder& told, Pose pose, float s, Point ahead, Point right, float* out) const {
        const float *across = told.cells, *along = told.cells + told.cell_count;
        std::fill(out, out + told.cell_count, INFINITY);
        for (long i = 0; i < told.arc_count && told.cell_count; ++i) {
            Point place, tangent;
            at(s + told.arcs[i], place, tangent);
            Point delta = {place.x - pose.x, place.y - pose.y}, seen = {dot(delta, right), dot(delta, ahead)};
            for (long cell = 0; cell < told.cell_count; ++cell) {
                float dx = seen.x - across[cell], dy = seen.y - along[cell];
                out[cell] = std::min(dx * dx + dy * dy, out[cell]);
            }
        }
        for (long cell = 0; cell < told.cell_count; ++cell) {
            out[cell] = (count > 0) * std::min(std::sqrt(out[cell]) / told.half_width - 1, 2.0f);
        }
    }
};
