package dev.gatun.trainer;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * One line chart as inline SVG: series over a shared horizontal axis, which may carry a second
 * scale on top. Colours come from the page's classes {@code s0, s1, …}.
 *
 * @param label of the vertical axis
 * @param topLabel of the upper scale; "" for none
 * @param topPerX what one unit of x is on the upper scale
 * @param reference a horizontal line, or NaN
 */
record Chart(
        String label,
        List<Series> series,
        String topLabel,
        double topPerX,
        double reference,
        String referenceLabel) {
    /** Points in ascending x. */
    record Series(String name, List<Point> points) {}

    record Point(double x, double y) {}

    private static final int WIDTH = 860;
    private static final int HEIGHT = 300;
    private static final int LEFT = 60;
    private static final int RIGHT = 16;
    private static final int TOP = 34;
    private static final int BOTTOM = 34;

    /** Of more points, means are drawn: single batches' noise would hide the trend. */
    private static final int MAX_POINTS = 200;

    /** The first steps of a training are far above the rest; the axis leaves them out. */
    private static final double OUTLIERS = 0.01;

    String svg() {
        var all = series.stream().flatMap(s -> s.points().stream()).toList();
        double x1 = all.stream().mapToDouble(Point::x).max().orElse(1);
        double[] ys =
                all.stream().mapToDouble(Point::y).filter(Double::isFinite).sorted().toArray();
        double y0 = ys.length == 0 ? 0 : ys[0];
        double y1 = ys.length == 0 ? 1 : ys[(int) ((ys.length - 1) * (1 - OUTLIERS))];
        if (Double.isFinite(reference)) {
            y0 = Math.min(y0, reference);
            y1 = Math.max(y1, reference);
        }
        double step = tick(y1 - y0);
        y0 = Math.floor(y0 / step) * step;
        y1 = Math.max(y0 + step, Math.ceil(y1 / step) * step);

        var svg = new StringBuilder();
        svg.append(
                "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">"
                        .formatted(WIDTH, HEIGHT, Report.escape(label)));
        for (int i = 0; y0 + i * step <= y1 + step / 2; i++) {
            double y = y0 + i * step;
            double at = y(y, y0, y1);
            svg.append(line("grid", LEFT, at, WIDTH - RIGHT, at));
            svg.append(text("end", LEFT - 6, at + 4, number(y)));
        }
        double xStep = tick(x1);
        for (double x = 0; x <= x1 * 1.0001; x += xStep) {
            svg.append(text("middle", x(x, x1), HEIGHT - BOTTOM + 16, number(x)));
        }
        svg.append(text("end", WIDTH - RIGHT, HEIGHT - 4, "step"));
        svg.append(text("start", 4, 14, label));
        if (!topLabel.isEmpty()) {
            double topEnd = x1 * topPerX;
            double topStep = tick(topEnd);
            for (double t = 0; t <= topEnd * 1.0001; t += topStep) {
                svg.append(text("middle", x(t / topPerX, x1), TOP - 6, number(t)));
            }
            svg.append(text("end", WIDTH - RIGHT, 14, topLabel));
        }
        if (Double.isFinite(reference)) {
            double at = y(reference, y0, y1);
            svg.append(line("reference", LEFT, at, WIDTH - RIGHT, at));
            svg.append(text("end", WIDTH - RIGHT - 4, at - 5, referenceLabel));
        }
        for (int i = 0; i < series.size(); i++) {
            svg.append(path(series.get(i), "s" + i, x1, y0, y1));
        }
        double legend = LEFT + 12;
        for (int i = 0; series.size() > 1 && i < series.size(); i++) {
            double at = HEIGHT - BOTTOM - 12 - 16.0 * (series.size() - 1 - i);
            svg.append(line("s" + i, legend, at - 4, legend + 22, at - 4));
            svg.append(text("start", legend + 28, at, series.get(i).name()));
        }
        return svg.append("</svg>").toString();
    }

    private static String path(Series series, String style, double x1, double y0, double y1) {
        List<Point> points = thinned(series.points());
        var d = new StringBuilder();
        for (Point p : points) {
            double y = Math.clamp(p.y(), y0, y1);
            d.append(d.isEmpty() ? "M" : "L")
                    .append(String.format(Locale.ROOT, "%.1f %.1f", x(p.x(), x1), y(y, y0, y1)));
        }
        var marks = new StringBuilder();
        if (points.size() <= 40) {
            for (Point p : points) {
                marks.append(
                        String.format(
                                Locale.ROOT,
                                "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\"/>",
                                style,
                                x(p.x(), x1),
                                y(Math.clamp(p.y(), y0, y1), y0, y1)));
            }
        }
        return "<path class=\"%s\" d=\"%s\"/>%s".formatted(style, d, marks);
    }

    /** Means of neighbours. */
    private static List<Point> thinned(List<Point> points) {
        List<Point> finite = points.stream().filter(p -> Double.isFinite(p.y())).toList();
        if (finite.size() <= MAX_POINTS) {
            return finite;
        }
        var thin = new ArrayList<Point>();
        for (int i = 0; i < MAX_POINTS; i++) {
            int from = (int) ((long) i * finite.size() / MAX_POINTS);
            int to = (int) ((long) (i + 1) * finite.size() / MAX_POINTS);
            var part = finite.subList(from, to);
            thin.add(
                    new Point(
                            part.getLast().x(),
                            part.stream().mapToDouble(Point::y).average().orElseThrow()));
        }
        return thin;
    }

    /** 1, 2 or 5 times a power of ten, so that about five fit the range. */
    private static double tick(double range) {
        if (!(range > 0)) {
            return 1;
        }
        double raw = range / 5;
        double power = Math.pow(10, Math.floor(Math.log10(raw)));
        double digit = raw / power;
        return power * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
    }

    private static double x(double x, double x1) {
        return LEFT + (WIDTH - LEFT - RIGHT) * x / Math.max(1e-12, x1);
    }

    private static double y(double y, double y0, double y1) {
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y0) / (y1 - y0);
    }

    private static String number(double x) {
        if (x != 0 && Math.abs(x) < 0.01) {
            return String.format(Locale.ROOT, "%.0e", x).replace("e-0", "e-");
        }
        String text = String.format(Locale.ROOT, "%.3f", x);
        return text.replaceAll("\\.?0+$", "");
    }

    private static String line(String style, double x0, double y0, double x1, double y1) {
        return String.format(
                Locale.ROOT,
                "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>",
                style,
                x0,
                y0,
                x1,
                y1);
    }

    private static String text(String anchor, double x, double y, String text) {
        return String.format(
                Locale.ROOT,
                "<text text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">%s</text>",
                anchor,
                x,
                y,
                Report.escape(text));
    }
}
