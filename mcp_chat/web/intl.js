/** Numbers, times and plurals as people of a place write them. Pure. */

const ISOLATE = "\u2068";
const END = "\u2069";

const RIGHT_TO_LEFT = "\u200f";

const isolate = (text) => `${ISOLATE}${text}${END}`;

/** @typedef {ReturnType<typeof formatsOf>} Formats */

/** @param {string} locale such as `de-CH` */
export function formatsOf(locale) {
  const [numbers, rules] = [new Intl.NumberFormat(locale), new Intl.PluralRules(locale)];
  const number = (count) => numbers.format(count);
  const unit = (count, name, digits = 0) =>
    new Intl.NumberFormat(locale, { style: "unit", unit: name, unitDisplay: "narrow", maximumFractionDigits: digits }).format(count);
  return {
    number,
    duration: (ms) => duration(ms, unit),
    money: (amount) => moneyOf(new Intl.NumberFormat(locale, { ...DOLLARS, ...digitsOf(amount) }).formatToParts(amount)),
    moment: (date, style = { dateStyle: "medium", timeStyle: "short" }) => new Intl.DateTimeFormat(locale, style).format(date),
    list: (texts) => new Intl.ListFormat(locale).format(texts),

    /** @param {number} count @param {Partial<Record<Intl.LDMLPluralRule, string>>} forms in which `#` is the number */
    plural: (count, forms) => (forms[rules.select(count)] ?? forms.other).replace("#", number(count)),

    /** What others named, in a sentence that may run the other way. @param {string} text */
    isolate,
  };
}

function duration(ms, unit) {
  if (ms < 1000) return unit(Math.max(1, Math.round(ms)), "millisecond");
  if (ms < 60_000) return unit(ms / 1000, "second", 1);
  return `${unit(Math.floor(ms / 60_000), "minute")} ${unit(Math.floor((ms % 60_000) / 1000), "second")}`;
}

/** An amount keeps its sign, as `US$`, the right way round where all around runs from right to left. @param {Intl.NumberFormatPart[]} parts */
function moneyOf(parts) {
  const turned = parts.some(({ value }) => value.includes(RIGHT_TO_LEFT));
  const text = parts.map(({ type, value }) => (turned && type === "currency" ? isolate(value) : value)).join("");
  return turned ? isolate(text) : text;
}

const DOLLARS = { style: "currency", currency: "USD", currencyDisplay: "narrowSymbol" };

/** Cents where there are any, else the first two digits. @param {number} amount */
const digitsOf = (amount) => (amount >= 0.01 ? {} : { maximumSignificantDigits: 2 });
