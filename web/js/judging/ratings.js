// The table of ratings.
import { element } from "../dom.js";
import { translate } from "../translate.js";

/** Returns the rows of the table of ratings, best method first. */
export function ratingRows(vote, ratings, byCriterion) {
  const row = (tag, cells) => element("tr", {}, ...cells.map((text) => element(tag, { text })));
  const best = vote === "best";
  const bestFirst = [...ratings].sort((one, other) => (best ? other.won - one.won : other.mu - one.mu));
  const score = ({ mu, sigma }) => `${mu.toFixed(1)} ± ${sigma.toFixed(1)}`;
  const percent = ({ share }) => (share === null ? "-" : `${(100 * share).toFixed(0)} %`);
  const figure = best ? percent : score;
  const criteria = Object.keys(byCriterion);
  if (criteria.length) {
    const of = (criterion, method) => byCriterion[criterion].find((rating) => rating.method === method);
    const cells = (rating) => [rating.method, ...criteria.map((each) => figure(of(each, rating.method)))];
    return [
      row("th", [translate("Method"), ...criteria, translate("all")]),
      ...bestFirst.map((rating) => row("td", [...cells(rating), figure(rating)])),
    ];
  }
  if (best) {
    return [
      row("th", [translate("Method"), translate("Chosen"), translate("Share"), "TrueSkill"]),
      ...bestFirst.map((rating) => row("td", [rating.method, rating.won, percent(rating), score(rating)])),
    ];
  }
  return [
    row("th", [translate("Method"), "TrueSkill", translate("Won"), translate("Tied"), translate("Lost")]),
    ...bestFirst.map((rating) =>
      row("td", [rating.method, score(rating), rating.won, rating.tied, rating.lost]),
    ),
  ];
}
