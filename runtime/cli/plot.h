/* plot.h - lines over one axis as an SVG picture: both axes logarithmic, no fonts, scripts or files of others.
 *
 * Readable on a light and on a dark page: the background is clear, and text and grid take the page's side from
 * prefers-color-scheme. A line's limit is drawn dashed in its color. Threads: no hidden state. */
#ifndef MR_PLOT_H
#define MR_PLOT_H

#include "base/memory.h"

enum { MR_PLOT_LINES = 8, MR_PLOT_POINTS = 16 };

typedef struct mr_plot_line {
    const char *name;  /* borrowed */
    int color;         /* 0 to 4: lines of one color belong together */
    bool dashed;
    int n;
    double x[MR_PLOT_POINTS], y[MR_PLOT_POINTS]; /* above 0; x ascending */
} mr_plot_line;

typedef struct mr_plot {
    const char *title, *x_name, *y_name;
    int n_lines;
    mr_plot_line lines[MR_PLOT_LINES];
} mr_plot;

/* Appends the picture. Points that are not above 0 are left out; without any point it is the frame alone. */
void mr_plot_svg(mr_str *out, const mr_plot *p);

#endif
