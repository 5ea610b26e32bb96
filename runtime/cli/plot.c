/* plot.c - see plot.h. */
#include "cli/plot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 760, HEIGHT = 420, LEFT = 64, RIGHT = 16, TOP = 36, LINE = 17, BOTTOM = 44, TICKS = 12 };

typedef struct frame {
    double x0, x1, y0, y1; /* logarithms at the edges */
    int top;               /* of the picture, below the legend */
} frame;

static double place_x(const frame *f, double x) {
    return LEFT + (log10(x) - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const frame *f, double y) {
    return HEIGHT - BOTTOM - (log10(y) - f->y0) / (f->y1 - f->y0) * (HEIGHT - BOTTOM - f->top);
}

static bool visible(const mr_plot_line *l, int i) {
    return l->x[i] > 0 && l->y[i] > 0 && isfinite(l->x[i]) && isfinite(l->y[i]);
}

static void take_in(double *low, double *high, double value) {
    double v = log10(value);
    if (v < *low) *low = v;
    if (v > *high) *high = v;
}

/* What all lines need, with a little room around it. */
static frame frame_of(const mr_plot *p) {
    frame f = { INFINITY, -INFINITY, INFINITY, -INFINITY, TOP + LINE * ((p->n_lines + 1) / 2) };
    for (int l = 0; l < p->n_lines; l++)
        for (int i = 0; i < p->lines[l].n; i++)
            if (visible(&p->lines[l], i)) {
                take_in(&f.x0, &f.x1, p->lines[l].x[i]);
                take_in(&f.y0, &f.y1, p->lines[l].y[i]);
            }
    if (f.x0 > f.x1) f = (frame){ 0, 1, 0, 1, f.top };
    double wide = (f.x1 - f.x0) * 0.03 + 0.01, high = (f.y1 - f.y0) * 0.05 + 0.02;
    f.x0 -= wide, f.x1 += wide, f.y0 -= high, f.y1 += high;
    return f;
}

static void number(char text[32], double x) {
    if (x >= 1e6)
        snprintf(text, 32, "%gM", x / 1e6);
    else if (x >= 1e4)
        snprintf(text, 32, "%gk", x / 1e3);
    else
        snprintf(text, 32, "%.4g", x);
}

/* 1, 2 and 5 of each decade between the edges, or of every decade only the 1 when there are many. */
static int ticks(double out[TICKS], double low, double high) {
    static const double steps[] = { 1, 2, 5 };
    int n = 0, n_steps = high - low > 3.3 ? 1 : 3;
    for (int e = (int)floor(low) - 1; e <= (int)ceil(high); e++)
        for (int s = 0; s < n_steps; s++) {
            double v = steps[s] * pow(10, e);
            if (log10(v) >= low && log10(v) <= high && n < TICKS) out[n++] = v;
        }
    return n;
}

/* The places where points are, when they are few; else round numbers. */
static int x_ticks(double out[MR_PLOT_POINTS], const mr_plot *p, const frame *f) {
    int n = 0;
    const mr_plot_line *most = &p->lines[0];
    for (int l = 1; l < p->n_lines; l++)
        if (p->lines[l].n > most->n) most = &p->lines[l];
    for (int i = 0; p->n_lines && i < most->n; i++)
        if (most->x[i] > 0 && (n == 0 || place_x(f, most->x[i]) - place_x(f, out[n - 1]) > 34)) out[n++] = most->x[i];
    return n;
}

static void draw_grid(mr_str *out, const mr_plot *p, const frame *f) {
    double at[MR_PLOT_POINTS];
    char text[32];
    int n = ticks(at, f->y0, f->y1);
    for (int i = 0; i < n; i++) {
        double y = place_y(f, at[i]);
        number(text, at[i]);
        mr_str_printf(out, "<path class=\"g\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", LEFT, y,
                      WIDTH - RIGHT, LEFT - 6, y + 4, text);
    }
    n = x_ticks(at, p, f);
    for (int i = 0; i < n; i++) {
        double x = place_x(f, at[i]);
        number(text, at[i]);
        mr_str_printf(out, "<path class=\"g\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", x, f->top,
                      HEIGHT - BOTTOM, x, HEIGHT - BOTTOM + 16, text);
    }
    mr_str_printf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", WIDTH - RIGHT, HEIGHT - 8, p->x_name);
    mr_str_printf(out, "<text x=\"%d\" y=\"%d\">%s</text>\n", 6, f->top - 8, p->y_name);
}

static void draw_line(mr_str *out, const mr_plot_line *l, const frame *f) {
    bool begun = false;
    mr_str_printf(out, "<path class=\"c%d%s\" d=\"", l->color, l->dashed ? " d" : "");
    for (int i = 0; i < l->n; i++) {
        if (!visible(l, i)) continue;
        mr_str_printf(out, "%c%.1f %.1f", begun ? 'L' : 'M', place_x(f, l->x[i]), place_y(f, l->y[i]));
        begun = true;
    }
    mr_str_puts(out, begun ? "\"/>\n" : "M0 0\"/>\n");
    for (int i = 0; i < l->n && !l->dashed; i++)
        if (visible(l, i))
            mr_str_printf(out, "<circle class=\"f%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", l->color, place_x(f, l->x[i]),
                          place_y(f, l->y[i]));
}

void mr_plot_svg(mr_str *out, const mr_plot *p) {
    static const char *const colors[5] = { "#3b82f6", "#e8590c", "#2f9e44", "#ae3ec9", "#c69214" }; /* seen on white and on black */
    const frame f = frame_of(p);
    mr_str_printf(out,
                  "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"system-ui,sans-serif\" font-size=\"12\">\n"
                  "<style>text{fill:#333}.g{stroke:#8884;fill:none}path{stroke-width:2;fill:none}.g{stroke-width:1}.d{stroke-dasharray:6 "
                  "4;stroke-width:1.5}",
                  WIDTH, HEIGHT);
    for (int i = 0; i < 5; i++) mr_str_printf(out, ".c%d{stroke:%s}.f%d{fill:%s}", i, colors[i], i, colors[i]);
    mr_str_printf(out, "@media(prefers-color-scheme:dark){text{fill:#ccc}}</style>\n<title>%s</title>\n", p->title);
    const int size = strlen(p->title) > 90 ? 12 : 14; /* which 100 letters have room in */
    mr_str_printf(out, "<text x=\"%d\" y=\"16\" font-size=\"%d\">%s</text>\n", LEFT, size, p->title);
    for (int i = 0; i < p->n_lines; i++) {
        const mr_plot_line *l = &p->lines[i];
        int x = LEFT + i % 2 * (WIDTH - LEFT) / 2, y = TOP + i / 2 * LINE;
        mr_str_printf(out, "<path class=\"c%d%s\" d=\"M%d %dh26\"/><text x=\"%d\" y=\"%d\">%s</text>\n", l->color, l->dashed ? " d" : "", x,
                      y - 4, x + 32, y, l->name);
    }
    draw_grid(out, p, &f);
    for (int i = 0; i < p->n_lines; i++) draw_line(out, &p->lines[i], &f);
    mr_str_puts(out, "</svg>\n");
}
