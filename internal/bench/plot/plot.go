// Package plot draws measurements with their spread as SVG.
package plot

import (
	"io"
	"slices"

	"github.com/go-analyze/charts"
)

// Chart is bars by label, or lines over the labels of an axis with a dot for
// every single sample.
type Chart struct {
	Title, X, Y string // of the chart and its axes
	Bars        bool
	Labels      []string
	Groups      []Group
}

// Group is the values of one contestant, one for each label.
type Group struct {
	Name   string
	Values []Value
}

// Value is a median and what it is the median of. Without samples there is
// nothing to draw.
type Value struct {
	Median  float64
	Samples []float64
}

const width, height = 900, 420

// palette can be told apart by the colour-blind (Okabe and Ito, 2008).
var palette = []charts.Color{
	{R: 0x00, G: 0x72, B: 0xb2, A: 0xff},
	{R: 0xe6, G: 0x9f, B: 0x00, A: 0xff},
	{R: 0x00, G: 0x9e, B: 0x73, A: 0xff},
	{R: 0xcc, G: 0x79, B: 0xa7, A: 0xff},
	{R: 0x56, G: 0xb4, B: 0xe9, A: 0xff},
	{R: 0xd5, G: 0x5e, B: 0x00, A: 0xff},
	{R: 0x80, G: 0x80, B: 0x80, A: 0xff},
}

// SVG writes the chart.
func (c Chart) SVG(w io.Writer) error {
	kind := charts.ChartTypeLine
	if c.Bars {
		kind = charts.ChartTypeBar
	}
	var (
		series charts.GenericSeriesList
		names  []string
		colors []charts.Color
		rounds int
	)
	for i, g := range c.Groups {
		names, colors = append(names, g.Name), append(colors, palette[i%len(palette)])
		medians := make([]float64, len(g.Values))
		for j, v := range g.Values {
			medians[j] = charts.GetNullValue()
			if len(v.Samples) > 0 {
				medians[j] = v.Median
			}
			rounds = max(rounds, len(v.Samples))
		}
		series = append(series, charts.GenericSeries{Type: kind, Name: g.Name, Values: medians})
	}
	if !c.Bars {
		// The colours repeat in the order of the groups: dots get those of their
		// lines.
		for round := range rounds {
			for _, g := range c.Groups {
				series = append(series, charts.GenericSeries{Type: charts.ChartTypeScatter, Values: g.round(round)})
			}
		}
	}
	p, err := charts.Render(charts.ChartOption{
		OutputFormat: charts.ChartOutputSVG, Width: width, Height: height,
		Theme:      charts.GetTheme(charts.ThemeLight).WithSeriesColors(slices.Repeat(colors, 1+rounds)),
		Title:      charts.TitleOption{Text: c.Title, FontStyle: charts.FontStyle{FontSize: 12}},
		Legend:     charts.LegendOption{SeriesNames: names, Offset: charts.OffsetStr{Top: "24"}},
		XAxis:      charts.XAxisOption{Title: c.X, Labels: c.Labels, BoundaryGap: charts.Ptr(true)},
		YAxis:      []charts.YAxisOption{{Title: c.Y, Min: charts.Ptr(0.0)}},
		SeriesList: series,
	})
	if err != nil {
		return err
	}
	svg, err := p.Bytes()
	if err != nil {
		return err
	}
	_, err = w.Write(svg)
	return err
}

// round returns the samples of one round.
func (g Group) round(n int) []float64 {
	out := make([]float64, len(g.Values))
	for i, v := range g.Values {
		out[i] = charts.GetNullValue()
		if n < len(v.Samples) {
			out[i] = v.Samples[n]
		}
	}
	return out
}
